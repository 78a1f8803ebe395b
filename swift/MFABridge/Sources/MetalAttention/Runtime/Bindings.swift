import AttentionKernels
import Metal

extension Tensor {
  /// Bytes from the start of the device's buffer to the first element: see `Residency`.
  var deviceOffset: Int { buffer.isDevice && !isEmpty ? byteOffset : 0 }

  /// Offset and strides for a kernel, in elements.
  var kernelView: TensorView {
    TensorView(
      offset: Int64(deviceOffset) &* 8 / Int64(precision.bits), batch: Int64(strides.x), head: Int64(strides.y),
      row: Int64(strides.z), column: Int64(columns == 1 ? 1 : strides.w))
  }

  /// The promise about the strides for which a kernel is made.
  var access: AttentionKernelDescriptor.Access {
    if columns == 1 || strides.w == 1 {
      let steps = [deviceOffset &* 8 / precision.bits] + strides.list.dropLast()
      return steps.allSatisfy { $0 % 4 == 0 } ? .vector : .strided
    }
    return rows > 1 && strides.z < strides.w ? .transposed : .strided
  }

  /// The form of a stored operand that a kernel is made for.
  var kernelOperand: AttentionKernelDescriptor.Operand {
    .init(
      GEMMOperandPrecision(rawValue: precision.rawValue) ?? .FP32, access: access, quantization: quantization?.layout)
  }

  /// Bytes that a call copies because the memory is not the device's.
  var copiedBytes: Int { buffer.isDevice ? 0 : spanBytes }
}

extension ArrayView {
  var deviceOffset: Int { buffer.isDevice && bytes > 0 ? offset : 0 }
  var copiedBytes: Int { buffer.isDevice ? 0 : bytes }
}

extension Quantization {
  /// The layout that a kernel is made for.
  var layout: QuantizationLayout {
    var layout = QuantizationLayout(hasMean: mean != nil, isRotated: rotated)
    guard case .many(let arrays) = parameters else {
      if case .one(_, let zero) = parameters { layout.isSymmetric = zero == 0 }
      return layout
    }
    switch granularity {
    case .tensor: layout.granularity = .tensorInBuffer
    case .row: layout.granularity = group == 32 || group == 64 ? .rowGroups(of: group) : .row
    case .block: layout.granularity = .block
    case .channel: layout.granularity = .channel
    }
    layout.scaleStorage = arrays.half ? .FP16 : .FP32
    layout.zeroPoints = arrays.zeroPoints == nil ? .none : arrays.zeroPointBytes == 1 ? .int8 : .int32
    return layout
  }

  /// Rows that share a scale, for a kernel.
  var kernelBlockRows: UInt32 { UInt32(clamping: blockRows) }
}

/// The contents of a kernel's bindings, by role.
struct BindingTable {
  enum Content {
    case buffer(any MTLBuffer)
    case float(Float)
    case int(Int32)
  }

  private(set) var contents: [Binding.Role: Content] = [:]

  subscript(role: Binding.Role) -> Content? {
    get { contents[role] }
    set { contents[role] = newValue }
  }

  mutating func read(_ role: Binding.Role, _ tensor: Tensor?, _ residency: Residency) throws(AttentionError) {
    if let tensor { contents[role] = .buffer(try residency.read(tensor).buffer) }
  }

  mutating func write(_ role: Binding.Role, _ tensor: Tensor?, _ residency: Residency) throws(AttentionError) {
    if let tensor { contents[role] = .buffer(try residency.write(tensor).buffer) }
  }

  mutating func read(_ role: Binding.Role, _ array: ArrayView?, _ residency: Residency) throws(AttentionError) {
    if let array { contents[role] = .buffer(try residency.read(array).buffer) }
  }

  /// Binds an operand with what it takes to read it.
  mutating func readOperand(
    _ name: AttentionOperand, _ tensor: Tensor, _ residency: Residency
  ) throws(AttentionError) {
    try read(.operand(name), tensor, residency)
    guard let quantization = tensor.quantization else { return }
    switch quantization.parameters {
    case .one(let scale, let zeroPoint):
      contents[.scale(name)] = .float(scale)
      contents[.zeroPoint(name)] = .int(zeroPoint)
    case .many(let arrays):
      try read(.scales(name), arrays.scales, residency)
      try read(.zeroPoints(name), arrays.zeroPoints, residency)
    }
    try read(.mean(name), quantization.mean, residency)
  }

  private func isUntracked(_ role: Binding.Role) -> Bool {
    guard case .buffer(let buffer) = contents[role] else { return false }
    return buffer.hazardTrackingMode == .untracked
  }

  /// Dispatches a kernel on what is bound.
  func dispatch(
    _ descriptor: AttentionKernelDescriptor, _ arguments: AttentionArguments, on device: AttentionDevice,
    _ encoder: any MTLComputeCommandEncoder
  ) throws(AttentionError) {
    let pipeline = try device.pipelines.pipeline(.attention(descriptor))
    guard let kernel = pipeline.kernel else { return }
    let grid = kernel.grid(arguments)
    if grid.x == 0 || grid.y == 0 || grid.z == 0 { return }
    encoder.setComputePipelineState(pipeline.state)
    // Of buffers that Metal does not track, it does not know that an earlier kernel of the encoder has written them.
    if kernel.bindings.contains(where: { isUntracked($0.role) }) { encoder.memoryBarrier(scope: .buffers) }
    for binding in kernel.bindings {
      if binding.role == .arguments {
        let bytes = arguments.bytes
        encoder.setBytes(bytes, length: bytes.count, index: binding.index)
        continue
      }
      switch contents[binding.role] {
      case .buffer(let buffer): encoder.setBuffer(buffer, offset: 0, index: binding.index)
      case .float(var value): encoder.setBytes(&value, length: 4, index: binding.index)
      case .int(var value): encoder.setBytes(&value, length: 4, index: binding.index)
      case nil:
        throw AttentionError(
          .kernelExecution, "internal error: nothing is bound to \(binding.role) of \(kernel.functionName)")
      }
    }
    encoder.dispatchThreadgroups(
      MTLSize(width: grid.x, height: grid.y, depth: grid.z),
      threadsPerThreadgroup: MTLSize(width: kernel.threadsPerThreadgroup, height: 1, depth: 1))
  }
}
