/// The storage of a tensor's elements. Raw values are those of `enum mfa_precision`.
public enum GEMMOperandPrecision: Int32, Hashable, Sendable, CaseIterable {
  case FP32 = 0
  case FP16 = 1
  case BF16 = 2
  /// Two's complement; element 2i of a row in the low nibble of byte i, element 2i + 1 in the high nibble.
  case INT4 = 4
  case INT8 = 8

  public var isInteger: Bool { self == .INT4 || self == .INT8 }

  /// Bits of one element.
  public var bits: Int {
    switch self {
    case .FP32: 32
    case .FP16, .BF16: 16
    case .INT8: 8
    case .INT4: 4
    }
  }

  /// The MSL type of an element in a device buffer. INT4 is addressed by bytes, of two elements each.
  public var storageType: String {
    switch self {
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    case .INT8: "char"
    case .INT4: "uchar"
    }
  }
}
