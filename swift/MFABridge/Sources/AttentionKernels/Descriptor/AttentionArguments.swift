/// The position of element [batch, head, row, column] of a tensor: offset and strides, in elements from the start of
/// its buffer. A stride of 0 broadcasts. INT4 counts elements too (a byte has two).
public struct TensorView: Hashable, Sendable {
  public var offset, batch, head, row, column: Int64
  public init(offset: Int64 = 0, batch: Int64 = 0, head: Int64 = 0, row: Int64 = 0, column: Int64 = 0) {
    self.offset = offset
    self.batch = batch
    self.head = head
    self.row = row
    self.column = column
  }
}

/// The run-time data of a kernel: the Swift mirror of `struct AttentionArguments` in the text. `fields` is the one
/// definition of its layout, from which `bytes` and `structText` are both made.
public struct AttentionArguments: Hashable, Sendable {
  /// "No limit" of `windowLeft` and `windowRight`; sizes are below it, so that positions fit in 32 bits.
  public static let unlimited: Int32 = 1 << 30

  // MARK: Sizes

  /// Batches; with varlen the number of sequences.
  public var batches: UInt32 = 1
  /// Query heads.
  public var heads: UInt32 = 1
  /// Query heads that share a key head.
  public var headsPerKeyHead: UInt32 = 1
  /// Heads of K and V, where there may be none of Q: it sizes the grid. nil: heads / headsPerKeyHead.
  public var keyHeads: UInt32?
  /// Query rows; with varlen at least those of the longest sequence (it sizes the grid).
  public var queryRows: UInt32 = 0
  /// Key rows; with varlen at least those of the longest sequence.
  public var keyRows: UInt32 = 0

  // MARK: Meaning

  public var softmaxScale: Float = 1
  /// With `hasSoftcap`: above 0.
  public var softcap: Float = 0
  /// 1: row i has key position i + keyRows − queryRows (of its sequence), 0: i.
  public var bottomRight: UInt32 = 0
  /// The key range of a row at position p is p − windowLeft ... p + windowRight. Causal is windowRight = 0. `setWindow`
  /// clamps.
  public var windowLeft = AttentionArguments.unlimited
  public var windowRight = AttentionArguments.unlimited

  // MARK: Schedule

  /// `decodeSplit` and `forwardMerge`: threadgroups that share a row's keys.
  public var splits: UInt32 = 1

  // MARK: Quantization

  /// Rows that share a scale: granularities `.block` and `.channel`.
  public var queryBlockRows: UInt32 = 1, keyBlockRows: UInt32 = 1, valueBlockRows: UInt32 = 1

  // MARK: Views

  public var Q = TensorView(), K = TensorView(), V = TensorView(), O = TensorView()
  public var L = TensorView(), D = TensorView()
  /// [batch, head, query row]: of logsumexp
  public var dL = TensorView()
  public var dO = TensorView(), dQ = TensorView(), dK = TensorView(), dV = TensorView()
  /// [batch or sequence, head, query row, key row]
  public var mask = TensorView(), maskGradient = TensorView()
  /// [batch, head]; [·, head]
  public var slopes = TensorView(), sinks = TensorView(), sinkGradients = TensorView()
  /// [batch, head, row or block of rows, group of columns or column], of the key's heads for K and V.
  public var queryScales = TensorView(), keyScales = TensorView(), valueScales = TensorView()
  public var queryZeroPoints = TensorView(), keyZeroPoints = TensorView(), valueZeroPoints = TensorView()
  /// [batch, head, ·, column]
  public var queryMean = TensorView(), keyMean = TensorView(), valueMean = TensorView()
  /// First element of each array of cumulative lengths.
  public var cumulativeQueryOffset: Int64 = 0, cumulativeKeyOffset: Int64 = 0
  /// First of the lengths of keys, which are stored behind the bounds of keys.
  public var keyLengthsOffset: Int64 = 0

  public init() {}

  /// A window of any width, −1 = no limit; `isCausal` limits the right side to 0.
  public mutating func setWindow(left: Int64 = -1, right: Int64 = -1, isCausal: Bool = false) {
    func clamp(_ x: Int64) -> Int32 { x < 0 ? Self.unlimited : Int32(min(x, Int64(Self.unlimited))) }
    windowLeft = clamp(left)
    windowRight = isCausal ? 0 : clamp(right)
  }

  // MARK: Layout

  enum Value {
    case uint(UInt32)
    case int(Int32)
    case float(Float)
    case long(Int64)
    case view(TensorView)
  }

  struct Field: Sendable {
    /// Its name in the text.
    let name: String
    let value: @Sendable (AttentionArguments) -> Value
    init(_ name: String, _ value: @escaping @Sendable (AttentionArguments) -> Value) {
      (self.name, self.value) = (name, value)
    }
  }

  /// In order of address. Members of 4 bytes come first and are even in number, so that nothing needs padding.
  static let fields: [Field] = [
    Field("batches") { .uint($0.batches) },
    Field("heads") { .uint($0.heads) },
    Field("heads_per_key_head") { .uint($0.headsPerKeyHead) },
    Field("query_rows") { .uint($0.queryRows) },
    Field("key_rows") { .uint($0.keyRows) },
    Field("softmax_scale") { .float($0.softmaxScale) },
    Field("softcap") { .float($0.softcap) },
    Field("bottom_right") { .uint($0.bottomRight) },
    Field("window_left") { .int($0.windowLeft) },
    Field("window_right") { .int($0.windowRight) },
    Field("splits") { .uint($0.splits) },
    Field("q_block_rows") { .uint($0.queryBlockRows) },
    Field("k_block_rows") { .uint($0.keyBlockRows) },
    Field("v_block_rows") { .uint($0.valueBlockRows) },
    Field("cumulative_q_offset") { .long($0.cumulativeQueryOffset) },
    Field("cumulative_k_offset") { .long($0.cumulativeKeyOffset) },
    Field("key_lengths_offset") { .long($0.keyLengthsOffset) },
    Field("Q") { .view($0.Q) },
    Field("K") { .view($0.K) },
    Field("V") { .view($0.V) },
    Field("O") { .view($0.O) },
    Field("L") { .view($0.L) },
    Field("D") { .view($0.D) },
    Field("dL") { .view($0.dL) },
    Field("dO") { .view($0.dO) },
    Field("dQ") { .view($0.dQ) },
    Field("dK") { .view($0.dK) },
    Field("dV") { .view($0.dV) },
    Field("mask") { .view($0.mask) },
    Field("mask_gradient") { .view($0.maskGradient) },
    Field("slopes") { .view($0.slopes) },
    Field("sinks") { .view($0.sinks) },
    Field("sink_gradients") { .view($0.sinkGradients) },
    Field("q_scales") { .view($0.queryScales) },
    Field("k_scales") { .view($0.keyScales) },
    Field("v_scales") { .view($0.valueScales) },
    Field("q_zero_points") { .view($0.queryZeroPoints) },
    Field("k_zero_points") { .view($0.keyZeroPoints) },
    Field("v_zero_points") { .view($0.valueZeroPoints) },
    Field("q_mean") { .view($0.queryMean) },
    Field("k_mean") { .view($0.keyMean) },
    Field("v_mean") { .view($0.valueMean) },
  ]

  /// The struct as a kernel reads it: for `setBytes(_:length:index:)` at the index of `.arguments`.
  public var bytes: [UInt8] {
    var result: [UInt8] = []
    func append<T: FixedWidthInteger>(_ x: T) { withUnsafeBytes(of: x.littleEndian) { result.append(contentsOf: $0) } }
    for field in Self.fields {
      switch field.value(self) {
      case .uint(let x): append(x)
      case .int(let x): append(x)
      case .float(let x): append(x.bitPattern)
      case .long(let x): append(x)
      case .view(let v): for x in [v.offset, v.batch, v.head, v.row, v.column] { append(x) }
      }
    }
    return result
  }

  /// The same layout in MSL.
  static var structText: String {
    let none = AttentionArguments()
    let members = fields.map { field in
      let type =
        switch field.value(none) {
        case .uint: "uint"
        case .int: "int"
        case .float: "float"
        case .long: "long"
        case .view: "TensorView"
        }
      return "  \(type) \(field.name);"
    }
    return """
      // Where element [batch, head, row, column] lies, in elements.
      struct TensorView {
        long offset, batch, head, row, column;
      };

      struct AttentionArguments {
      \(members.joined(separator: "\n"))
      };
      """
  }
}
