/// A buffer of a kernel. One table serves both sides: the host binds by it, and the parameters of the text are made
/// from it.
public struct Binding: Hashable, Sendable {
  public enum Role: Hashable, Sendable, CaseIterable {
    /// A matrix: its buffer, at offset 0 (views and offsets are in the arguments).
    case operand(AttentionOperand)
    /// `constant float &x_scale`, granularity `.tensor`.
    case scale(AttentionOperand)
    /// `constant int32_t &x_zero_point`, granularity `.tensor`.
    case zeroPoint(AttentionOperand)
    /// Arrays of scales and of zero points, the other granularities.
    case scales(AttentionOperand)
    case zeroPoints(AttentionOperand)
    /// FP32 means of columns.
    case mean(AttentionOperand)
    case mask
    case maskGradient
    case slopes
    case sinks
    case sinkGradients
    /// int32 [sequences + 1]
    case cumulativeQueryLengths
    case cumulativeKeyLengths
    /// FP32 [batch, head, query row]; the second is that of the kernel for keys.
    case logsumexpGradient
    case logsumexpGradientOfRows
    /// FP32 scratch of a split forward kernel: see `AttentionKernel.partialBytes`.
    case partialOutput
    case partialStatistics
    /// `AttentionArguments.bytes`
    case arguments

    public static let allCases: [Role] =
      AttentionOperand.allCases.map(Role.operand)
      + AttentionOperand.quantizable.flatMap { [.scale($0), .zeroPoint($0), .scales($0), .zeroPoints($0), .mean($0)] }
      + [
        .mask, .maskGradient, .slopes, .sinks, .sinkGradients, .cumulativeQueryLengths, .cumulativeKeyLengths,
        .logsumexpGradient, .logsumexpGradientOfRows, .partialOutput, .partialStatistics, .arguments,
      ]

    /// The buffer's index. Metal has 31; no kernel has two roles of the same index.
    public var index: Int {
      switch self {
      case .operand(.Q): 0
      case .operand(.K): 1
      case .operand(.V): 2
      case .operand(.O): 3
      case .scale(let x): 4 + 2 * Self.ordinal(x)
      case .zeroPoint(let x): 5 + 2 * Self.ordinal(x)
      case .scales(let x): 10 + Self.ordinal(x)
      case .zeroPoints(let x): 13 + Self.ordinal(x)
      case .mean(let x): 16 + Self.ordinal(x)
      case .operand(.L): 19
      case .operand(.D): 20
      case .operand(.dO): 21
      case .operand(.dQ), .partialOutput, .maskGradient, .sinkGradients, .logsumexpGradientOfRows: 22
      case .operand(.dK), .partialStatistics: 23
      case .operand(.dV), .logsumexpGradient: 24
      case .mask: 25
      case .slopes: 26
      case .sinks: 27
      case .cumulativeQueryLengths: 28
      case .cumulativeKeyLengths: 29
      case .arguments: 30
      }
    }

    /// The parameter's name in the text.
    public var name: String {
      switch self {
      case .operand(let x): x.rawValue
      case .scale(let x): "\(x.lowercase)_scale"
      case .zeroPoint(let x): "\(x.lowercase)_zero_point"
      case .scales(let x): "\(x.lowercase)_scales"
      case .zeroPoints(let x): "\(x.lowercase)_zero_points"
      case .mean(let x): "\(x.lowercase)_mean"
      case .mask: "mask"
      case .maskGradient: "mask_gradient"
      case .slopes: "slopes"
      case .sinks: "sinks"
      case .sinkGradients: "sink_gradients"
      case .cumulativeQueryLengths: "cumulative_q"
      case .cumulativeKeyLengths: "cumulative_k"
      case .logsumexpGradient, .logsumexpGradientOfRows: "dL"
      case .partialOutput: "partial_output"
      case .partialStatistics: "partial_statistics"
      case .arguments: "args"
      }
    }

    private static func ordinal(_ x: AttentionOperand) -> Int { AttentionOperand.quantizable.firstIndex(of: x) ?? 0 }
  }

  public let role: Role
  public let isWritten: Bool
  /// The parameter's type in the text, up to its name: `const device half *`.
  let type: String

  public var index: Int { role.index }
  /// `const device half *Q [[buffer(0)]]`
  var parameter: String { "\(type)\(role.name) [[buffer(\(index))]]" }
}

extension AttentionKernelDescriptor {
  /// The buffers of the kernel, in order of index.
  public var bindings: [Binding] {
    var list = BindingList(descriptor: self)
    switch kind {
    case .forward: list.addForward()
    case .forwardMerge: list.addForwardMerge()
    case .backwardQuery, .backwardKeyValue, .backwardMask: list.addBackward()
    case .backwardSinks: list.addBackwardSinks()
    }
    list.read(.arguments, "constant AttentionArguments &")
    return list.bindings.sorted { $0.index < $1.index }
  }
}

/// Collects the bindings of a kernel.
private struct BindingList {
  let descriptor: AttentionKernelDescriptor
  private(set) var bindings: [Binding] = []

  init(descriptor: AttentionKernelDescriptor) { self.descriptor = descriptor }

  mutating func read(_ role: Binding.Role, _ type: String = "const device float *") {
    bindings.append(Binding(role: role, isWritten: false, type: type))
  }

  private mutating func write(_ role: Binding.Role, _ type: String = "device float *") {
    bindings.append(Binding(role: role, isWritten: true, type: type))
  }

  // MARK: Kernels

  mutating func addForward() {
    addScoreInputs()
    addOperand(.V)
    addLengths()
    if descriptor.schedule == .decodeSplit {
      write(.partialOutput)
      write(.partialStatistics)
    } else {
      addResults()
    }
  }

  mutating func addForwardMerge() {
    addLengths()
    read(.partialOutput)
    read(.partialStatistics)
    addResults()
  }

  mutating func addBackward() {
    let (kind, gradients) = (descriptor.kind, descriptor.gradients)
    addScoreInputs()
    addOperand(.V)
    addLengths()
    read(.operand(.dO), "const device \(descriptor.precision(.dO).storageType) *")
    read(.operand(.L))
    if kind == .backwardQuery && gradients.dSource != .given {
      if gradients.dSource == .output { read(.operand(.O), "const device \(descriptor.precision(.O).storageType) *") }
      if gradients.writesD { write(.operand(.D)) }
    } else if kind != .backwardKeyValue || gradients.key {
      read(.operand(.D))
    }
    if kind == .backwardQuery, gradients.query { write(.operand(.dQ)) }
    if kind == .backwardKeyValue, gradients.key { write(.operand(.dK)) }
    if kind == .backwardKeyValue, gradients.value { write(.operand(.dV)) }
    if kind == .backwardMask { write(.maskGradient) }
    if kind != .backwardKeyValue {
      addLogsumexpGradient(.logsumexpGradient)
    } else if gradients.key {
      addLogsumexpGradient(.logsumexpGradientOfRows)
    }
  }

  mutating func addBackwardSinks() {
    read(.operand(.L))
    read(.operand(.D))
    addSinks()
    write(.sinkGradients)
    addLogsumexpGradient(.logsumexpGradient)
  }

  // MARK: Groups of buffers

  /// An operand with its scales, zero points and mean.
  private mutating func addOperand(_ name: AttentionOperand) {
    read(.operand(name), "const device \(descriptor.precision(name).storageType) *")
    guard let layout = descriptor.operand(name).quantization else { return }
    if layout.hasScaleArray {
      read(.scales(name), layout.scaleStorage == .FP16 ? "const device half *" : "const device float *")
      switch layout.zeroPoints {
      case .none: break
      case .int8: read(.zeroPoints(name), "const device char *")
      case .int32: read(.zeroPoints(name), "const device int *")
      }
    } else {
      read(.scale(name), "constant float &")
      read(.zeroPoint(name), "constant int32_t &")
    }
    if layout.hasMean { read(.mean(name)) }
  }

  /// Q, K, the mask and the slopes.
  private mutating func addScoreInputs() {
    addOperand(.Q)
    addOperand(.K)
    if descriptor.mask != .none { read(.mask, "const device \(descriptor.mask.storageType) *") }
    if descriptor.hasALiBi { read(.slopes, "const device \(descriptor.slopePrecision.storageType) *") }
  }

  private mutating func addLengths() {
    if descriptor.isVariableLength { read(.cumulativeQueryLengths, "const device int *") }
    if descriptor.isVariableLength || descriptor.hasKeyLengths { read(.cumulativeKeyLengths, "const device int *") }
  }

  /// O and L, with the sinks that they depend on.
  private mutating func addResults() {
    write(.operand(.O), "device \(descriptor.precision(.O).storageType) *")
    if descriptor.writesLogsumexp { write(.operand(.L)) }
    if descriptor.hasSinks { addSinks() }
  }

  private mutating func addSinks() {
    read(.sinks, "const device \(descriptor.sinkPrecision.storageType) *")
  }

  private mutating func addLogsumexpGradient(_ role: Binding.Role) {
    if descriptor.gradients.ofLogsumexp { read(role) }
  }
}
