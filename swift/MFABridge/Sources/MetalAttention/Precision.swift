/// The storage of a tensor's elements; the raw values are the contract's codes.
package enum ElementPrecision: Int32, Sendable, CaseIterable, CustomStringConvertible {
  case fp32 = 0
  case fp16 = 1
  case bf16 = 2
  /// Two elements a byte, element 2i in the low half: columns are contiguous and even in number.
  case int4 = 4
  case int8 = 8
  /// Masks only.
  case bool = 16

  /// The contract's code of a precision that this driver refuses.
  package static let fp64Code: Int32 = 64

  var bits: Int {
    switch self {
    case .fp32: return 32
    case .fp16, .bf16: return 16
    case .int8, .bool: return 8
    case .int4: return 4
    }
  }

  /// Bytes of an element; of INT4, of the byte that holds it.
  var bytes: Int { (bits + 7) / 8 }

  package var isQuantized: Bool { self == .int8 || self == .int4 }
  package var isFloat: Bool { self == .fp32 || self == .fp16 || self == .bf16 }

  /// The integers that can be stored.
  var range: ClosedRange<Int32> { self == .int4 ? -8...7 : -128...127 }
  /// The largest magnitude of a symmetrically quantized integer.
  var symmetricMax: Int32 { self == .int4 ? 7 : 127 }

  package var description: String {
    switch self {
    case .fp32: return "FP32"
    case .fp16: return "FP16"
    case .bf16: return "BF16"
    case .int4: return "INT4"
    case .int8: return "INT8"
    case .bool: return "BOOL"
    }
  }

  static let floats: [ElementPrecision] = [.fp32, .fp16, .bf16]
  static let operands: [ElementPrecision] = [.fp32, .fp16, .bf16, .int8, .int4]
  static let integers: [ElementPrecision] = [.int8, .int4]
}

/// The value of a half, for hosts whose Swift lacks `Float16`.
func float(half bits: UInt16) -> Float {
  let sign: Float = bits & 0x8000 == 0 ? 1 : -1
  let exponent = Int(bits >> 10 & 31)
  let mantissa = Float(bits & 1023)
  switch exponent {
  case 0: return sign * mantissa * 0x1p-24
  case 31: return mantissa == 0 ? sign * .infinity : .nan
  default: return sign * (1024 + mantissa) * Float(sign: .plus, exponent: exponent - 25, significand: 1)
  }
}
