import CMFA
import MetalAttention

// The fixed signatures: thin entries over the general calls. The documentation of each function is in mfa.h.

private typealias Handle = UnsafeMutableRawPointer

/// A contiguous `[batch, heads, rows, columns]` tensor, each head's matrix transposed or not.
private func dense(
  _ handle: Handle?, _ what: String, _ shape: SIMD4<UInt64>, precision: Int32 = 0, transposed: Bool = false
) throws(AttentionError) -> TensorDescription {
  let matrix = shape.z.multipliedReportingOverflow(by: shape.w)
  let batch = matrix.partialValue.multipliedReportingOverflow(by: shape.y)
  guard !matrix.overflow, !batch.overflow, let step = Int64(exactly: batch.partialValue),
    let head = Int64(exactly: matrix.partialValue), let rows = Int64(exactly: shape.z),
    let columns = Int64(exactly: shape.w)
  else {
    throw AttentionError(
      .invalidDimensions,
      "\(what): shape \([shape.x, shape.y, shape.z, shape.w]) has more elements than can be addressed")
  }
  var result = TensorDescription()
  result.buffer = reference(handle)
  result.precision = precision
  result.shape = shape
  result.strides = transposed ? SIMD4(step, head, 1, rows) : SIMD4(step, head, columns, 1)
  return result
}

extension Record {
  private func shape(_ rows: UInt32) -> SIMD4<UInt64> {
    SIMD4(UInt64(batch), UInt64(heads), UInt64(rows), UInt64(headDim))
  }

  private func tensor(_ operand: Operand, _ rows: UInt32) throws(AttentionError) -> TensorDescription {
    try ensure(headDim > 0, .invalidDimensions, "head_dim is 0; expected 1 to \(Problem.maxHeadDimension)")
    var result = try dense(
      operand.handle, operand.name, shape(rows), precision: operand.precision, transposed: operand.transposed)
    if operand.isQuantized {
      var quantization = QuantizationDescription()
      quantization.scale = operand.scale
      quantization.zeroPoint = operand.zeroPoint
      result.quantization = .present(quantization)
    }
    return result
  }

  /// FP32 in the layout of an operand; absent without a buffer.
  private func like(
    _ operand: Operand, _ rows: UInt32, _ handle: Handle?, _ what: String
  ) throws(AttentionError)
    -> TensorDescription
  {
    if handle == nil { return TensorDescription() }
    return try dense(handle, what, shape(rows), transposed: operand.transposed)
  }

  private func likeOutput(_ handle: Handle?, _ what: String) throws(AttentionError) -> TensorDescription {
    try dense(handle, what, shape(rows), transposed: transposedOutput)
  }

  /// One FP32 number per query row.
  private func perRow(_ handle: Handle?, _ what: String) throws(AttentionError) -> TensorDescription {
    try dense(handle, what, SIMD4(UInt64(batch), UInt64(heads), UInt64(rows), 1))
  }

  private var options: OptionsDescription {
    var result = OptionsDescription()
    result.flags = OptionFlag.scale | (causal ? OptionFlag.causal : 0)
    result.softmaxScale = softmaxScale
    return result
  }

  fileprivate func forward(_ context: BridgeContext, output: Handle?, logsumexp: Handle?) throws(AttentionError) {
    var call = ForwardDescription()
    call.query = try tensor(query, rows)
    call.key = try tensor(key, keys)
    call.value = try tensor(value, keys)
    call.output = try likeOutput(output, "output")
    if logsumexp != nil { call.logsumexp = try perRow(logsumexp, "logsumexp") }
    call.options = .present(options)
    try context.attention.forward(call)
  }

  fileprivate func backward(_ context: BridgeContext, flags: UInt32, _ given: Gradients) throws(AttentionError) {
    var call = BackwardDescription()
    call.flags = flags
    call.query = try tensor(query, rows)
    call.key = try tensor(key, keys)
    call.value = try tensor(value, keys)
    call.gradOutput = try likeOutput(given.gradOutput, "grad_output")
    call.logsumexp = try perRow(given.logsumexp, "logsumexp")
    call.dValues = try perRow(given.dValues, "d_values")
    call.gradQuery = try like(query, rows, given.query, "grad_query")
    call.gradKey = try like(key, keys, given.key, "grad_key")
    call.gradValue = try like(value, keys, given.value, "grad_value")
    call.options = .present(options)
    try context.attention.backward(call)
  }
}

/// Buffers of a backward pass; those that it does not write are nil.
private struct Gradients {
  var gradOutput: Handle?
  var logsumexp: Handle?
  var dValues: Handle?
  var query: Handle?
  var key: Handle?
  var value: Handle?
}

@_cdecl("mfa_attention_forward")
public func attentionForward(
  _ handle: UnsafeMutableRawPointer?, _ query: UnsafeMutableRawPointer?, _ key: UnsafeMutableRawPointer?,
  _ value: UnsafeMutableRawPointer?, _ output: UnsafeMutableRawPointer?, _ batch: UInt32, _ rows: UInt32,
  _ keys: UInt32,
  _ heads: UInt32, _ headDim: UInt16, _ softmaxScale: Float, _ causal: Bool, _ qPrecision: Int32, _ kPrecision: Int32,
  _ vPrecision: Int32, _ transposeQ: Bool, _ transposeK: Bool, _ transposeV: Bool, _ transposeO: Bool
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    for (precision, what) in [(qPrecision, "q_precision"), (kPrecision, "k_precision"), (vPrecision, "v_precision")] {
      try ensure(
        ElementPrecision(rawValue: precision)?.isFloat ?? false, .invalidArgument,
        "\(what) is \(precision); expected 0 (FP32), 1 (FP16) or 2 (BF16): quantized operands need scales, which "
          + "mfa_attention_forward_quantized takes")
    }
    func operand(_ name: String, _ handle: Handle?, _ precision: Int32, _ transposed: Bool) -> Record.Operand {
      .init(name: name, handle: handle, precision: precision, scale: 1, zeroPoint: 0, transposed: transposed)
    }
    let record = Record(
      query: operand("query", query, qPrecision, transposeQ), key: operand("key", key, kPrecision, transposeK),
      value: operand("value", value, vPrecision, transposeV), batch: batch, rows: rows, keys: keys, heads: heads,
      headDim: headDim, transposedOutput: transposeO, softmaxScale: softmaxScale, causal: causal)
    try record.forward(context, output: output, logsumexp: nil)
  }
}

@_cdecl("mfa_attention_forward_quantized")
public func attentionForwardQuantized(
  _ handle: UnsafeMutableRawPointer?, _ query: UnsafeMutableRawPointer?, _ key: UnsafeMutableRawPointer?,
  _ value: UnsafeMutableRawPointer?, _ output: UnsafeMutableRawPointer?, _ logsumexp: UnsafeMutableRawPointer?,
  _ batch: UInt32, _ rows: UInt32, _ keys: UInt32, _ heads: UInt32, _ headDim: UInt16, _ softmaxScale: Float,
  _ causal: Bool, _ qPrecision: Int32, _ kPrecision: Int32, _ vPrecision: Int32, _ qScale: Float, _ qZeroPoint: Int32,
  _ kScale: Float, _ kZeroPoint: Int32, _ vScale: Float, _ vZeroPoint: Int32, _ transposeQ: Bool, _ transposeK: Bool,
  _ transposeV: Bool, _ transposeO: Bool
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let record = Record(
      query: .init(
        name: "query", handle: query, precision: qPrecision, scale: qScale, zeroPoint: qZeroPoint,
        transposed: transposeQ),
      key: .init(
        name: "key", handle: key, precision: kPrecision, scale: kScale, zeroPoint: kZeroPoint, transposed: transposeK),
      value: .init(
        name: "value", handle: value, precision: vPrecision, scale: vScale, zeroPoint: vZeroPoint,
        transposed: transposeV),
      batch: batch, rows: rows, keys: keys, heads: heads, headDim: headDim, transposedOutput: transposeO,
      softmaxScale: softmaxScale, causal: causal)
    try record.forward(context, output: output, logsumexp: logsumexp)
    context.records.update { record.remember(in: &$0) }
  }
}

/// Refuses NULL where a pass must write or read.
private func expectBuffers(_ handles: [(Handle?, String)]) throws(AttentionError) {
  for (handle, what) in handles { _ = try buffer(handle, what) }
}

@_cdecl("mfa_attention_backward_query_quantized")
public func attentionBackwardQuery(
  _ handle: UnsafeMutableRawPointer?, _ query: UnsafeMutableRawPointer?, _ key: UnsafeMutableRawPointer?,
  _ value: UnsafeMutableRawPointer?, _ gradOutput: UnsafeMutableRawPointer?, _ logsumexp: UnsafeMutableRawPointer?,
  _ gradQuery: UnsafeMutableRawPointer?, _ dValues: UnsafeMutableRawPointer?, _ batch: UInt32, _ rows: UInt32,
  _ keys: UInt32, _ heads: UInt32, _ headDim: UInt16, _ qScale: Float, _ qZeroPoint: Int32
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let record = try Record.recall([query, key, value], context)
    try record.expect(
      batch: batch, rows: rows, keys: keys, heads: heads, headDim: headDim, [(qScale, qZeroPoint)])
    try expectBuffers([(gradQuery, "grad_query_ptr"), (dValues, "d_values_ptr")])
    try record.backward(
      context, flags: 0, Gradients(gradOutput: gradOutput, logsumexp: logsumexp, dValues: dValues, query: gradQuery))
  }
}

@_cdecl("mfa_attention_backward_kv_quantized")
public func attentionBackwardKeyValue(
  _ handle: UnsafeMutableRawPointer?, _ query: UnsafeMutableRawPointer?, _ key: UnsafeMutableRawPointer?,
  _ value: UnsafeMutableRawPointer?, _ gradOutput: UnsafeMutableRawPointer?, _ logsumexp: UnsafeMutableRawPointer?,
  _ dValues: UnsafeMutableRawPointer?, _ gradKey: UnsafeMutableRawPointer?, _ gradValue: UnsafeMutableRawPointer?,
  _ batch: UInt32, _ rows: UInt32, _ keys: UInt32, _ heads: UInt32, _ headDim: UInt16, _ qScale: Float,
  _ qZeroPoint: Int32, _ kScale: Float, _ kZeroPoint: Int32, _ vScale: Float, _ vZeroPoint: Int32
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let record = try Record.recall([query, key, value], context)
    try record.expect(
      batch: batch, rows: rows, keys: keys, heads: heads, headDim: headDim,
      [(qScale, qZeroPoint), (kScale, kZeroPoint), (vScale, vZeroPoint)])
    try expectBuffers([(dValues, "d_values_ptr"), (gradKey, "grad_key_ptr"), (gradValue, "grad_value_ptr")])
    try record.backward(
      context, flags: BackwardFlag.dGiven,
      Gradients(gradOutput: gradOutput, logsumexp: logsumexp, dValues: dValues, key: gradKey, value: gradValue))
  }
}
