/// The text of a kernel and its launch parameters.
struct KernelText {
  let source: String
  let tiles: Tiles
  let threadgroupMemoryBytes: Int

  init(descriptor: AttentionKernelDescriptor, profile: DeviceProfile) throws(AttentionKernelError) {
    let kernel: KernelBody =
      switch descriptor.kind {
      case .forward where descriptor.schedule == .prefill: try PrefillText(descriptor, profile).kernel
      case .forward: try DecodeText(descriptor, profile).kernel
      case .forwardMerge: ForwardMergeText(descriptor).kernel
      case .backwardQuery, .backwardKeyValue: BackwardText(descriptor, profile).kernel
      case .backwardMask: BackwardMaskText(descriptor, profile).kernel
      case .backwardSinks: BackwardSinksText.kernel(descriptor)
      }
    if kernel.memory.bytes > profile.threadgroupMemory {
      throw .threadgroupMemory(needed: kernel.memory.bytes, available: profile.threadgroupMemory)
    }
    tiles = kernel.tiles
    threadgroupMemoryBytes = kernel.memory.bytes
    let parameters =
      descriptor.bindings.map(\.parameter) + [
        "uint3 group [[threadgroup_position_in_grid]]",
        "ushort thread_index [[thread_index_in_threadgroup]]",
        "ushort simd_index [[simdgroup_index_in_threadgroup]]",
        "ushort lane [[thread_index_in_simdgroup]]",
      ]
    source = Text.formatted(
      """
      // \(Self.summary(descriptor))
      // \(kernel.summary)
      #include <metal_stdlib>
      #include <metal_simdgroup_matrix>
      using namespace metal;

      \(AttentionArguments.structText)

      \(kernel.usesMatrices ? MatrixStorageText.text : "")

      kernel void attention_\(descriptor.kind.rawValue)(
        \(parameters.joined(separator: ",\n")))
      {
        \(Text.lines(kernel.memory.text, kernel.body))
      }
      """)
  }

  static func summary(_ descriptor: AttentionKernelDescriptor) -> String {
    func operand(_ name: AttentionOperand) -> String {
      let operand = descriptor.operand(name)
      guard let layout = operand.quantization else { return "\(name) \(operand.precision)" }
      var words = ["\(name) \(operand.precision)", "\(layout.granularity)"]
      if layout.zeroPoints != .none { words.append("zero points") }
      if layout.hasMean { words.append("mean") }
      if layout.isRotated { words.append("rotated") }
      return words.joined(separator: " ")
    }
    let columns =
      descriptor.headDimension == descriptor.valueDimension
      ? "\(descriptor.headDimension)" : "\(descriptor.headDimension) and \(descriptor.valueDimension)"
    return
      "\(descriptor.kind.rawValue), \([AttentionOperand.Q, .K, .V, .O].map(operand).joined(separator: ", ")), "
      + "\(columns) columns"
  }
}

/// The result of a kernel's generator, for `KernelText`.
struct KernelBody {
  let tiles: Tiles
  let memory: ThreadgroupMemory
  /// One line about the division of work.
  let summary: String
  let body: String
  var usesMatrices = true
}
