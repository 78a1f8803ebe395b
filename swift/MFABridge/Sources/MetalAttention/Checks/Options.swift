/// The options of attention, checked: see `mfa_attention_options`.
package struct Options: Sendable {
  package var scale: Float
  package var softcap: Float = 0
  package var causal = false
  /// Keys before and after the diagonal; nil: no limit.
  package var left: Int64?
  package var right: Int64?
  package var fast = false
  package var mask: Tensor?
  package var alibi: Tensor?
  package var sinks: Tensor?

  /// Causality or a window can mask a key.
  package var hasDiagonal: Bool { causal || left != nil || right != nil }
}

extension Options {
  static func check(
    _ view: OptionsDescription?, _ q: Tensor, _ k: Tensor
  ) throws(AttentionError) -> (options: Options, sequences: Sequences) {
    // Without columns every score is 0, times whatever.
    var options = Options(scale: 1 / Float(max(q.columns, 1)).squareRoot())
    guard let view else { return (options, try Sequences.check(nil, q, k)) }
    try ensure(
      view.flags & ~OptionFlag.known == 0, .invalidArgument,
      "options: flags is \(hex(view.flags)); expected bits of \(hex(OptionFlag.known))")
    try ensure(view.reserved == 0, .invalidArgument, "options: reserved is \(view.reserved); expected 0")
    if view.flags & OptionFlag.scale != 0 { options.scale = view.softmaxScale }
    try ensure(
      options.scale.isFinite, .invalidArgument,
      "options: softmax_scale is \(text(options.scale)); expected a finite number")
    options.softcap = view.softcap
    try ensure(
      view.softcap.isFinite && view.softcap >= 0, .invalidArgument,
      "options: softcap is \(text(view.softcap)); expected a finite number, 0 or more")
    try ensure(
      0...1 ~= view.alignment, .invalidArgument,
      "options: alignment \(view.alignment) is unknown; expected 0 (top left) or 1 (bottom right)")
    try ensure(
      0...1 ~= view.compute, .invalidArgument,
      "options: compute \(view.compute) is unknown; expected 0 (exact) or 1 (fast)")
    options.fast = view.compute == 1
    options.causal = view.flags & OptionFlag.causal != 0
    let hasWindow = view.flags & OptionFlag.window != 0
    try ensure(
      view.flags & OptionFlag.scale != 0 || view.softmaxScale == 0, .invalidArgument,
      "options: softmax_scale is \(text(view.softmaxScale)) without MFA_OPTION_SCALE; expected both, or 0")
    for (name, width) in [("window_left", view.windowLeft), ("window_right", view.windowRight)] {
      try ensure(
        hasWindow || -1...0 ~= width, .invalidArgument,
        "options: \(name) is \(width) without MFA_OPTION_WINDOW; expected both, or 0")
    }
    if hasWindow {
      options.left = try side(view.windowLeft, "window_left")
      options.right = try side(view.windowRight, "window_right")
    }
    let sequences = try Sequences.check(view, q, k)
    let heads = q.heads
    if let mask = try Tensor.optional(view.mask, "mask", [.bool] + ElementPrecision.floats) {
      let shape = SIMD4(sequences.named, heads, sequences.longestQ, sequences.longestK)
      options.mask = try mask.broadcast("mask", shape)
    }
    options.alibi = try perHead(view.alibiSlopes, "alibi_slopes", SIMD4(sequences.named, heads, 1, 1))
    options.sinks = try perHead(view.sinks, "sinks", SIMD4(1, heads, 1, 1))
    return (options, sequences)
  }

  private static func side(_ width: Int64, _ name: String) throws(AttentionError) -> Int64? {
    try ensure(
      width >= -1, .invalidArgument, "options: \(name) is \(width); expected -1 (no limit), 0 or more")
    return width >= 0 ? width : nil
  }

  private static func perHead(
    _ view: TensorDescription, _ what: String, _ shape: SIMD4<Int>
  ) throws(AttentionError) -> Tensor? {
    try Tensor.optional(view, what, ElementPrecision.floats)?.broadcast(what, shape)
  }
}
