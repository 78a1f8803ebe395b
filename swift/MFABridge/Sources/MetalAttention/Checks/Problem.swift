import AttentionKernels

/// The inputs that forward and backward share, checked once: every shape, option and precision is legal from here on.
package struct Problem: Sendable {
  /// The largest head dimension of the contract. Past 512 a call is refused where its kernels find no room in
  /// threadgroup memory.
  package static let maxHeadDimension = AttentionKernelDescriptor.maxHeadDimension

  package let q: Tensor
  package let k: Tensor
  package let v: Tensor
  package let options: Options
  package let sequences: Sequences

  /// Columns of Q and K.
  package var d: Int { q.columns }
  /// Columns of V.
  package var dv: Int { v.columns }
  package var heads: Int { q.heads }
  package var kvHeads: Int { k.heads }
  /// Query heads that share a key/value head.
  package var group: Int { k.heads == 0 ? 0 : q.heads / k.heads }

  static func check(
    _ query: TensorDescription, _ key: TensorDescription, _ value: TensorDescription,
    _ options: Optionally<OptionsDescription>
  ) throws(AttentionError) -> Problem {
    var q = try Tensor.required(query, "query", ElementPrecision.operands)
    var k = try Tensor.required(key, "key", ElementPrecision.operands)
    var v = try Tensor.required(value, "value", ElementPrecision.operands)
    for (tensor, what) in [(q, "query"), (k, "key"), (v, "value")] {
      let least = what == "value" ? 1 : 0
      try ensure(
        least...maxHeadDimension ~= tensor.columns, .invalidDimensions,
        "\(what): head dimension is \(tensor.columns); expected \(least) to \(maxHeadDimension)")
      try ensure(
        tensor.columns <= 1 || tensor.strides.w > 0 || tensor.isEmpty, .invalidDimensions,
        "\(what): the stride of columns is 0; expected 1 or more, for \(tensor.columns) columns that differ")
    }
    try k.expect("key", shape: SIMD4(q.batch, k.heads, k.rows, q.columns))
    try v.expect("value", shape: SIMD4(q.batch, k.heads, k.rows, v.columns))
    try ensure(
      q.heads == 0 || k.heads > 0 && q.heads % k.heads == 0, .invalidDimensions,
      "query: \(q.heads) heads; expected a multiple of the \(k.heads) key/value heads")
    try q.checkQuantizedValues("query")
    try k.checkQuantizedValues("key")
    try v.checkQuantizedValues("value")
    let checked = try Options.check(try options.get(), q, k)
    return Problem(q: q, k: k, v: v, options: checked.options, sequences: checked.sequences)
  }

  /// The inputs by name, without those of backward alone.
  var inputs: [NamedTensor] {
    [
      (q, "query"), (k, "key"), (v, "value"), (options.mask, "mask"), (options.alibi, "alibi_slopes"),
      (options.sinks, "sinks"),
    ]
  }
}

extension Tensor {
  mutating func checkQuantizedValues(_ what: String) throws(AttentionError) {
    try quantization?.checkValues(what, precision, shape)
  }
}

/// A checked forward call.
package struct ForwardCall: Sendable {
  package let problem: Problem
  package let output: Tensor
  package let logsumexp: Tensor?

  package static func check(_ view: ForwardDescription) throws(AttentionError) -> ForwardCall {
    try ensure(view.reserved == 0, .invalidArgument, "forward: reserved is \(view.reserved); expected 0")
    let problem = try Problem.check(view.query, view.key, view.value, view.options)
    let q = problem.q
    let output = try Tensor.required(view.output, "output", ElementPrecision.floats)
    try output.expect("output", shape: SIMD4(q.batch, q.heads, q.rows, problem.dv))
    try output.expectWritable("output")
    let logsumexp = try Tensor.optional(view.logsumexp, "logsumexp", [.fp32])
    if let logsumexp {
      try logsumexp.expect("logsumexp", shape: SIMD4(q.batch, q.heads, q.rows, 1))
      try logsumexp.expectWritable("logsumexp")
    }
    try expectApart([(output, "output"), (logsumexp, "logsumexp")], from: problem.inputs)
    return ForwardCall(problem: problem, output: output, logsumexp: logsumexp)
  }
}
