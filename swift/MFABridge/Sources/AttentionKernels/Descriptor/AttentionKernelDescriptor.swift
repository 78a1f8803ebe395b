/// Everything that changes the text of a kernel. Sizes, strides, offsets, the diagonal (causal, window, alignment),
/// softmax scale and the like are run-time data in `AttentionArguments`, so that a model needs few pipelines. The key
/// of pipeline caches.
public struct AttentionKernelDescriptor: Hashable, Sendable {
  public enum Kind: String, Hashable, Sendable, CaseIterable {
    /// O, and L if `writesLogsumexp`. Three schedules: see `Schedule`.
    case forward
    /// Combines the partial results of a split-K forward kernel, in order: O and L.
    case forwardMerge
    /// dQ if `gradients.query`, and D if `gradients.dSource` computes it and `gradients.writesD`.
    case backwardQuery
    /// dK and dV, those of them that are in `gradients`. Reads L and D.
    case backwardKeyValue
    /// The gradient of an additive mask, summed over the dimensions in which it is broadcast. Reads L and D.
    case backwardMask
    /// The gradient of the sinks. Reads L and D.
    case backwardSinks
  }

  /// The division of a forward kernel's work.
  public enum Schedule: Hashable, Sendable, CaseIterable {
    /// Many query rows: tiles of K and V are dequantized once into threadgroup memory for all rows of a threadgroup.
    case prefill
    /// Few query rows: the query heads that share a key head are folded into one tile of rows.
    case decode
    /// Split-K: as `decode`, with the keys of each row split over `AttentionArguments.splits` threadgroups. Writes
    /// partial results (`.partialOutput`, `.partialStatistics`), which a `forwardMerge` kernel combines.
    case decodeSplit
  }

  /// A promise about an operand's strides, by which loads can be wide.
  public enum Access: Hashable, Sendable, CaseIterable {
    /// The column stride is 1; offset and all other strides (of dimensions larger than 1) are multiples of 4, in
    /// elements, and so is the buffer's address.
    case vector
    /// The row stride is 1 (a transposed operand), or below the column stride. Not for INT4.
    case transposed
    /// No promise.
    case strided
  }

  /// A stored tensor.
  public struct Operand: Hashable, Sendable {
    public var precision: GEMMOperandPrecision
    public var access: Access
    /// For INT8 and INT4, otherwise nil. Only Q, K and V may be integers.
    public var quantization: QuantizationLayout?

    public init(_ precision: GEMMOperandPrecision, access: Access = .vector, quantization: QuantizationLayout? = nil) {
      self.precision = precision
      self.access = access
      self.quantization = quantization
    }
  }

  public enum Mask: String, Hashable, Sendable, CaseIterable {
    case none
    /// One byte an element; 0 masks the key.
    case BOOL
    /// Added to the scores; −∞ masks the key.
    case FP32, FP16, BF16
  }

  /// The outputs of a backward kernel, and their options.
  public struct Gradients: Hashable, Sendable {
    public enum DSource: Hashable, Sendable, CaseIterable {
      /// The binding D is an input.
      case given
      /// rowsum(dO ∘ O), from the binding O.
      case output
      /// Σⱼ Pᵢⱼ dPᵢⱼ: a separate pass over the keys, before that of dQ.
      case probabilities
    }
    public var query = false, key = false, value = false
    public var dSource = DSource.probabilities
    /// The binding D is written (`dSource` is not `.given`).
    public var writesD = true
    /// Gradients of elements at an end of the quantized range are 0 (MFA_BACKWARD_CLIP).
    public var clips = false
    /// There is a gradient of logsumexp: it is subtracted from D wherever D is used.
    public var ofLogsumexp = false
    public init() {}
  }

  public var kind: Kind
  public var schedule: Schedule
  /// The largest number of columns. A kernel that does not fit threadgroup memory is refused all the same.
  public static let maxHeadDimension = 1024

  /// Columns of Q and K, 1 ... 1024.
  public var headDimension: Int
  /// Columns of V and O, 1 ... 1024.
  public var valueDimension: Int
  public var query: Operand
  public var key: Operand
  public var value: Operand
  /// Of O: FP32, FP16 or BF16.
  public var output: Operand
  /// Of dO: FP32, FP16 or BF16. Forward kernels ignore it.
  public var gradOutput: Operand
  public var mask: Mask
  /// S = c · tanh(S / c) with `AttentionArguments.softcap`.
  public var hasSoftcap: Bool
  public var hasALiBi: Bool
  public var hasSinks: Bool
  /// Rows of all sequences are stored one after another in batch 0; bindings `.cumulativeQueryLengths`,
  /// `.cumulativeKeyLengths`.
  public var isVariableLength: Bool
  /// Of the slopes and of the sinks: FP32, FP16 or BF16.
  public var slopePrecision = GEMMOperandPrecision.FP32, sinkPrecision = GEMMOperandPrecision.FP32
  /// Sequences have fewer keys than are stored: binding `.cumulativeKeyLengths`, from
  /// `AttentionArguments.keyLengthsOffset`.
  public var hasKeyLengths = false
  /// The forward kernel writes the binding L.
  public var writesLogsumexp: Bool
  public var gradients: Gradients

  public init(
    kind: Kind, schedule: Schedule = .prefill, headDimension: Int, valueDimension: Int? = nil, query: Operand,
    key: Operand, value: Operand, output: Operand = Operand(.FP32)
  ) {
    self.kind = kind
    self.schedule = schedule
    self.headDimension = headDimension
    self.valueDimension = valueDimension ?? headDimension
    self.query = query
    self.key = key
    self.value = value
    self.output = output
    gradOutput = Operand(.FP32)
    mask = .none
    hasSoftcap = false
    hasALiBi = false
    hasSinks = false
    isVariableLength = false
    writesLogsumexp = false
    gradients = Gradients()
  }

  /// The stored form of an operand. L and D are FP32; gradients are FP32.
  public func operand(_ operand: AttentionOperand) -> Operand {
    switch operand {
    case .Q: query
    case .K: key
    case .V: value
    case .O: output
    case .dO: gradOutput
    case .L, .D, .dQ, .dK, .dV: Operand(.FP32, access: .strided)
    }
  }

  public func precision(_ operand: AttentionOperand) -> GEMMOperandPrecision { self.operand(operand).precision }

  public func isQuantized(_ operand: AttentionOperand) -> Bool { precision(operand).isInteger }

  /// Columns of an operand's rows.
  public func columns(_ operand: AttentionOperand) -> Int {
    switch operand {
    case .Q, .K, .dQ, .dK: headDimension
    case .V, .O, .dO, .dV: valueDimension
    case .L, .D: 1
    }
  }

  /// Refuses descriptors that have no meaningful text.
  func validate() throws(AttentionKernelError) {
    for (name, dimension) in [("head dimension", headDimension), ("value dimension", valueDimension)]
    where !(1...Self.maxHeadDimension).contains(dimension) {
      throw .headDimension(name: name, found: dimension)
    }
    for name in AttentionOperand.quantizable {
      let operand = operand(name)
      guard let layout = operand.quantization else {
        if operand.precision.isInteger { throw .missingQuantization(name, operand.precision) }
        continue
      }
      if !operand.precision.isInteger { throw .unexpectedQuantization(name, operand.precision) }
      if case .rowGroups(let size) = layout.granularity, size != 32 && size != 64 {
        throw .groupSize(name, found: size)
      }
    }
    for name in [AttentionOperand.O, .dO] where precision(name).isInteger {
      throw .integerResult(name, precision(name))
    }
  }
}

extension AttentionKernelDescriptor.Mask {
  /// The MSL type of an element.
  var storageType: String {
    switch self {
    case .none: ""
    case .BOOL: "uchar"
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    }
  }
}
