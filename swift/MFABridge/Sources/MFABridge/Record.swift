import MetalAttention

/// One `mfa_attention_forward_quantized` call: what its backward entries, which take neither precisions nor transposes,
/// need to know.
struct Record: @unchecked Sendable {  // handles are numbers; nothing behind them is touched through a record
  /// Of query, key and value, in this order; so are the arrays below.
  struct Operand {
    let name: String
    var handle: UnsafeMutableRawPointer?
    var precision: Int32
    var scale: Float
    var zeroPoint: Int32
    var transposed: Bool

    var isQuantized: Bool { ElementPrecision(rawValue: precision)?.isQuantized ?? false }
  }

  var query: Operand
  var key: Operand
  var value: Operand
  var batch: UInt32
  var rows: UInt32
  var keys: UInt32
  var heads: UInt32
  var headDim: UInt16
  var transposedOutput: Bool
  var softmaxScale: Float
  var causal: Bool

  var operands: [UnsafeMutableRawPointer?] { [query.handle, key.handle, value.handle] }

  /// Records that a context keeps at most; the oldest goes first.
  private static let kept = 4096

  /// Demands the shape of the recorded call, and its scale and zero point for the quantized ones of `given`: those of
  /// query, key and value, as far as the call has them.
  func expect(
    batch: UInt32, rows: UInt32, keys: UInt32, heads: UInt32, headDim: UInt16,
    _ given: [(scale: Float, zeroPoint: Int32)]
  ) throws(AttentionError) {
    let sizes = [
      ("batch_size", batch, self.batch), ("seq_len_q", rows, self.rows), ("seq_len_kv", keys, self.keys),
      ("num_heads", heads, self.heads), ("head_dim", UInt32(headDim), UInt32(self.headDim)),
    ]
    for (name, found, expected) in sizes {
      try ensure(
        found == expected, .invalidArgument,
        "\(name) is \(found); expected \(expected), as in mfa_attention_forward_quantized on these buffers")
    }
    for (operand, found) in zip([query, key, value], given) where operand.isQuantized {
      try ensure(
        found.scale == operand.scale && found.zeroPoint == operand.zeroPoint, .invalidArgument,
        "\(operand.name): scale is \(text(found.scale)) and zero point \(found.zeroPoint); "
          + "expected \(text(operand.scale)) "
          + "and \(operand.zeroPoint), as in mfa_attention_forward_quantized on these buffers")
    }
  }

  /// Adds the record to a list, in place of an earlier one of the same operands.
  func remember(in records: inout [Record]) {
    records.removeAll { $0.operands == operands }
    if records.count >= Record.kept { records.removeFirst() }
    records.append(self)
  }

  /// The record of the forward call on these buffers.
  static func recall(
    _ operands: [UnsafeMutableRawPointer?], _ context: BridgeContext
  ) throws(AttentionError) -> Record {
    if let found = context.records.update({ $0.first { $0.operands == operands } }) { return found }
    throw AttentionError(
      .invalidArgument,
      "no forward call is recorded for these query, key and value buffers; expected "
        + "mfa_attention_forward_quantized on them, in this context, before its backward entries")
  }
}
