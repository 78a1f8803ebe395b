import AttentionKernels
import MetalAttention

/// A shape that the report is about.
struct Shape {
  let name: String
  let heads: Int
  let keyHeads: Int
  let queries: Int
  let keys: Int
  let columns: Int
  var isBackward = false

  /// Pairs of a query and a key.
  var scores: Int { heads * queries * keys }

  static let all = [
    Shape(name: "prefill, D 64", heads: 2, keyHeads: 2, queries: 256, keys: 256, columns: 64),
    Shape(name: "prefill, D 128", heads: 2, keyHeads: 1, queries: 256, keys: 256, columns: 128),
    Shape(name: "decode, D 128", heads: 4, keyHeads: 1, queries: 1, keys: 4096, columns: 128),
    Shape(name: "backward, D 64", heads: 2, keyHeads: 2, queries: 128, keys: 128, columns: 64, isBackward: true),
  ]
}

/// The storage of the operands.
struct Storage {
  let name: String
  let query: GEMMOperandPrecision
  let keyValue: GEMMOperandPrecision
  var options = QuantizationOptions()
  /// One scale for the whole tensor, which need not enter the inner loop.
  var isTensorWise: Bool { keyValue.isInteger && options.granularity == .tensor }

  static let single = Storage(name: "FP32", query: .FP32, keyValue: .FP32)
  static let half = Storage(name: "FP16", query: .FP16, keyValue: .FP16)
  static let all = [
    single,
    half,
    Storage(name: "BF16", query: .BF16, keyValue: .BF16),
    Storage(name: "INT8 K/V", query: .FP16, keyValue: .INT8),
    Storage(name: "INT4 K/V", query: .FP16, keyValue: .INT4),
    Storage(
      name: "INT8 K/V, row scales", query: .FP16, keyValue: .INT8, options: QuantizationOptions(granularity: .row)),
    Storage(
      name: "INT4 K/V, groups of 32", query: .FP16, keyValue: .INT4,
      options: QuantizationOptions(granularity: .row, groupSize: 32)),
  ]
}
