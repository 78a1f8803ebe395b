/// The reason why a descriptor has no kernel.
public enum AttentionKernelError: Error, Hashable, Sendable, CustomStringConvertible {
  case headDimension(name: String, found: Int)
  case missingQuantization(AttentionOperand, GEMMOperandPrecision)
  case unexpectedQuantization(AttentionOperand, GEMMOperandPrecision)
  case integerResult(AttentionOperand, GEMMOperandPrecision)
  case groupSize(AttentionOperand, found: Int)
  case threadgroupMemory(needed: Int, available: Int)

  public var description: String {
    switch self {
    case .headDimension(let name, let found):
      "\(name) is \(found), expected 1 ... \(AttentionKernelDescriptor.maxHeadDimension)"
    case .missingQuantization(let operand, let precision): "\(operand) is \(precision) but has no quantization layout"
    case .unexpectedQuantization(let operand, let precision):
      "\(operand) is \(precision) and has a quantization layout, which is for INT8 and INT4"
    case .integerResult(let operand, let precision): "\(operand) is \(precision), expected FP32, FP16 or BF16"
    case .groupSize(let operand, let found): "scales of \(operand) are in groups of \(found) columns, expected 32 or 64"
    case .threadgroupMemory(let needed, let available):
      "the kernel needs \(needed) bytes of threadgroup memory, the device has \(available)"
    }
  }
}
