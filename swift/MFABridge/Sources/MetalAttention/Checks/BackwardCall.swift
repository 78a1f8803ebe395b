/// A checked backward call.
package struct BackwardCall: Sendable {
  package let problem: Problem
  package let output: Tensor?
  package let gradOutput: Tensor
  package let logsumexp: Tensor
  package let dValues: Tensor?
  /// Whether D is read from `dValues`, and not written to it.
  package let dGiven: Bool
  package let clip: Bool
  package let gradQuery: Tensor?
  package let gradKey: Tensor?
  package let gradValue: Tensor?
  package let gradMask: Tensor?
  package let gradSinks: Tensor?
  package let gradLogsumexp: Tensor?

  /// Whether any result needs the gradient of the scores.
  package var needsScoreGradient: Bool { gradQuery != nil || gradKey != nil || gradMask != nil }
  /// Whether any result needs a D that is not given.
  package var needsD: Bool { !dGiven && (dValues != nil || gradSinks != nil || needsScoreGradient) }

  package static func check(_ view: BackwardDescription) throws(AttentionError) -> BackwardCall {
    try ensure(
      view.flags & ~BackwardFlag.known == 0, .invalidArgument,
      "backward: flags is \(hex(view.flags)); expected bits of \(hex(BackwardFlag.known))")
    let problem = try Problem.check(view.query, view.key, view.value, view.options)
    let q = problem.q
    let likeOutput = SIMD4(q.batch, q.heads, q.rows, problem.dv)
    let perRow = SIMD4(q.batch, q.heads, q.rows, 1)

    let output = try Tensor.optional(view.output, "output", ElementPrecision.floats)
    try output?.expect("output", shape: likeOutput)
    let gradOutput = try Tensor.required(view.gradOutput, "grad_output", ElementPrecision.floats)
    try gradOutput.expect("grad_output", shape: likeOutput)
    let logsumexp = try Tensor.required(view.logsumexp, "logsumexp", [.fp32])
    try logsumexp.expect("logsumexp", shape: perRow)

    let dGiven = view.flags & BackwardFlag.dGiven != 0
    let dValues = try Tensor.optional(view.dValues, "d_values", [.fp32])
    try ensure(
      dValues != nil || !dGiven, .invalidArgument,
      "d_values: absent with MFA_BACKWARD_D_GIVEN; expected the D of an earlier query pass")
    try dValues?.expect("d_values", shape: perRow)
    if !dGiven { try dValues?.expectWritable("d_values") }

    let gradQuery = try written(view.gradQuery, "grad_query", q.shape)
    let gradKey = try written(view.gradKey, "grad_key", problem.k.shape)
    let gradValue = try written(view.gradValue, "grad_value", problem.v.shape)
    let gradMask = try written(view.gradMask, "grad_mask", try maskShape(view, problem))
    try ensure(
      view.gradSinks.buffer.isAbsent || problem.options.sinks != nil, .invalidArgument,
      "grad_sinks: given without sinks; expected both or only sinks")
    let gradSinks = try written(view.gradSinks, "grad_sinks", SIMD4(1, q.heads, 1, 1))
    let gradLogsumexp = try Tensor.optional(view.gradLogsumexp, "grad_logsumexp", [.fp32])
    try gradLogsumexp?.expect("grad_logsumexp", shape: perRow)

    let call = BackwardCall(
      problem: problem, output: output, gradOutput: gradOutput, logsumexp: logsumexp, dValues: dValues, dGiven: dGiven,
      clip: view.flags & BackwardFlag.clip != 0, gradQuery: gradQuery, gradKey: gradKey, gradValue: gradValue,
      gradMask: gradMask, gradSinks: gradSinks, gradLogsumexp: gradLogsumexp)
    try call.expectApart()
    return call
  }

  /// A result, checked; nil if it is absent, or has no elements to compute.
  private static func written(
    _ view: TensorDescription, _ what: String, _ shape: SIMD4<Int>
  ) throws(AttentionError) -> Tensor? {
    guard let tensor = try Tensor.optional(view, what, [.fp32]) else { return nil }
    try tensor.expect(what, shape: shape)
    try tensor.expectWritable(what)
    return tensor.isEmpty ? nil : tensor
  }

  /// The shape that a gradient of the mask must have: the mask's own, before it is broadcast.
  private static func maskShape(_ view: BackwardDescription, _ problem: Problem) throws(AttentionError) -> SIMD4<Int> {
    if view.gradMask.buffer.isAbsent { return SIMD4(repeating: 0) }
    guard let named = try view.options.get(), let mask = problem.options.mask else {
      throw AttentionError(.invalidArgument, "grad_mask: given without a mask; expected both or only the mask")
    }
    try ensure(
      mask.precision.isFloat, .invalidArgument,
      "grad_mask: the mask is BOOL; expected an additive mask, which has a gradient")
    return SIMD4<Int>(truncatingIfNeeded: named.mask.shape)
  }

  /// Demands that no result shares memory with another, or with an operand that is read after it was begun.
  private func expectApart() throws(AttentionError) {
    let results: [NamedTensor] = [
      (dGiven ? nil : dValues, "d_values"),
      (gradQuery, "grad_query"),
      (gradKey, "grad_key"),
      (gradValue, "grad_value"),
      (gradMask, "grad_mask"),
      (gradSinks, "grad_sinks"),
    ]
    let operands: [NamedTensor] = [
      (output, "output"),
      (gradOutput, "grad_output"),
      (logsumexp, "logsumexp"),
      (gradLogsumexp, "grad_logsumexp"),
      (dGiven ? dValues : nil, "d_values"),
    ]
    try MetalAttention.expectApart(results, from: problem.inputs + operands)
  }
}
