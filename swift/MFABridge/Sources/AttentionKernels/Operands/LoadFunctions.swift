extension GEMMOperandPrecision {
  /// The member of `simdgroup_matrix_storage` that loads elements stored like this.
  var loadFunction: String {
    switch self {
    case .FP32, .FP16, .BF16: "load"
    case .INT8: "load_quantized_int8"
    case .INT4: "load_quantized_int4"
    }
  }
}

extension AttentionKernelDescriptor {
  /// The member of `simdgroup_matrix_storage` that loads an operand.
  public func loadFunction(_ operand: AttentionOperand) -> String { precision(operand).loadFunction }

  /// A call of it, with scale and zero point of a tensor-wise quantized operand.
  public func loadCall(
    _ operand: AttentionOperand, src: String, leadingDim: String, origin: String, transpose: Bool
  ) -> String {
    let quantization = isQuantized(operand) ? ", \(operand.lowercase)_scale, \(operand.lowercase)_zero_point" : ""
    return "\(loadFunction(operand))(\(src), \(leadingDim), \(origin)\(quantization), \(transpose))"
  }
}

extension AttentionKernel {
  public func isQuantized(_ operand: AttentionOperand) -> Bool { descriptor.isQuantized(operand) }
  public func loadFunction(_ operand: AttentionOperand) -> String { descriptor.loadFunction(operand) }
  public func loadCall(
    _ operand: AttentionOperand, src: String, leadingDim: String, origin: String, transpose: Bool
  ) -> String {
    descriptor.loadCall(operand, src: src, leadingDim: leadingDim, origin: origin, transpose: transpose)
  }
}
