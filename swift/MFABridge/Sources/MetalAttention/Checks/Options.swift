/// The meaning of the attention, checked: see `mfa_attention_options`.
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

  /// Whether causality or window hides any key.
  package var hasDiagonal: Bool { causal || left != nil || right != nil }
}

/// One sequence: a batch element, or a run of rows of the packed batch.
package struct RowSequence: Sendable, Equatable {
  /// Batch index of the operands.
  package var batch: Int
  /// Batch index of the mask.
  package var index: Int
  package var q0: Int
  package var nq: Int
  package var k0: Int
  package var nk: Int
  /// Key position of query row 0.
  package var shift: Int64
}

/// Where sequences lie: one per batch element, or packed along the rows.
package struct Sequences: Sendable {
  package let count: Int
  /// With varlen, each; otherwise one that stands for all, which are alike.
  package let items: [RowSequence]
  package let bottomRight: Bool
  /// The arrays of bounds, with varlen.
  package let bounds: (q: ArrayView, k: ArrayView)?

  package var isPacked: Bool { bounds != nil }
  package var longestQ: Int { items.reduce(0) { max($0, $1.nq) } }
  package var longestK: Int { items.reduce(0) { max($0, $1.nk) } }
}

extension Options {
  static func check(
    _ view: OptionsDescription?, _ q: Tensor, _ k: Tensor
  ) throws(AttentionError) -> (options: Options, sequences: Sequences) {
    // Without columns every score is 0, times whatever.
    var options = Options(scale: 1 / Float(max(q.columns, 1)).squareRoot())
    guard let view else { return (options, try dense(q, k, bottomRight: false)) }
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
    let sequences = try sequences(view, q, k)
    let heads = q.heads
    if let mask = try Tensor.optional(view.mask, "mask", [.bool] + ElementPrecision.floats) {
      let shape = SIMD4(sequences.count, heads, sequences.longestQ, sequences.longestK)
      options.mask = try mask.broadcast("mask", shape)
    }
    options.alibi = try perHead(view.alibiSlopes, "alibi_slopes", SIMD4(sequences.count, heads, 1, 1))
    options.sinks = try perHead(view.sinks, "sinks", SIMD4(1, heads, 1, 1))
    return (options, sequences)
  }

  private static func side(_ width: Int64, _ name: String) throws(AttentionError) -> Int64? {
    try ensure(
      width >= -1, .invalidArgument, "options: \(name) is \(width); expected -1 (no limit), 0 or more")
    return width >= 0 ? width : nil
  }

  private static func perHead(_ view: TensorDescription, _ what: String, _ shape: SIMD4<Int>) throws(AttentionError) -> Tensor? {
    try Tensor.optional(view, what, [.fp32])?.broadcast(what, shape)
  }

  private static func sequences(_ view: OptionsDescription, _ q: Tensor, _ k: Tensor) throws(AttentionError) -> Sequences {
    let bottomRight = view.alignment == 1
    if view.sequenceCount == 0 {
      try ensure(
        view.cuSeqlensQ.isAbsent && view.cuSeqlensK.isAbsent, .invalidArgument,
        "options: cu_seqlens without sequence_count; expected both or neither")
      return try dense(q, k, bottomRight: bottomRight)
    }
    try ensure(
      q.batch == 1, .invalidDimensions,
      "query: batch is \(q.batch); expected 1 with varlen (sequences lie along rows)")
    let count = Int(view.sequenceCount)
    let boundsQ = try bounds(view.cuSeqlensQ, view.cuSeqlensQOffset, count, q.rows, "cu_seqlens_q")
    let boundsK = try bounds(view.cuSeqlensK, view.cuSeqlensKOffset, count, k.rows, "cu_seqlens_k")
    var items: [RowSequence] = []
    items.reserveCapacity(count)
    for index in 0..<count {
      let (q0, k0) = (boundsQ.values[index], boundsK.values[index])
      let (nq, nk) = (boundsQ.values[index + 1] - q0, boundsK.values[index + 1] - k0)
      items.append(
        RowSequence(
          batch: 0, index: index, q0: q0, nq: nq, k0: k0, nk: nk, shift: bottomRight ? Int64(nk) - Int64(nq) : 0))
    }
    return Sequences(count: count, items: items, bottomRight: bottomRight, bounds: (boundsQ.array, boundsK.array))
  }

  private static func bounds(
    _ buffer: BufferReference, _ offset: UInt64, _ count: Int, _ rows: Int, _ what: String
  ) throws(AttentionError) -> (values: [Int], array: ArrayView) {
    let array = try ArrayView.check(buffer, offset: offset, bytes: 4 * (UInt64(count) + 1), alignment: 4, what)
    var values: [Int] = []
    values.reserveCapacity(count + 1)
    for index in 0...count {
      let value = array.load(index, as: Int32.self) ?? -1
      try ensure(index > 0 || value == 0, .invalidArgument, "\(what): begins with \(value); expected 0")
      if let last = values.last {
        try ensure(value >= last, .invalidArgument, "\(what): falls from \(last) to \(value); expected never to fall")
      }
      values.append(Int(value))
    }
    let end = values.last ?? 0
    try ensure(end == rows, .invalidArgument, "\(what): ends with \(end); expected \(rows), the rows")
    return (values, array)
  }

  private static func dense(_ q: Tensor, _ k: Tensor, bottomRight: Bool) throws(AttentionError) -> Sequences {
    let shift = bottomRight ? Int64(k.rows) - Int64(q.rows) : 0
    let each = RowSequence(batch: 0, index: 0, q0: 0, nq: q.rows, k0: 0, nk: k.rows, shift: shift)
    return Sequences(count: q.batch, items: [each], bottomRight: bottomRight, bounds: nil)
  }
}
