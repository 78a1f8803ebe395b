/// The pieces of text that compute scores from Q Kᵀ (the score modification) (eq. 2, 3, 15 of docs/math.md).
struct ScoreText {
  let descriptor: AttentionKernelDescriptor
  let key: OperandText

  init(_ descriptor: AttentionKernelDescriptor) {
    self.descriptor = descriptor
    key = OperandText(.K, descriptor)
  }

  static let log2e = "1.4426950408889634f"

  /// e to a power. Scores are natural: times log₂ e they could leave FP32, a difference of two that does is 0 as a
  /// power anyway. The fast function errs by 3 + 2 |x| units in the last place; -INFINITY gives 0 all the same.
  func exp(_ x: String) -> String { "fast::exp2((\(x)) * \(Self.log2e))" }

  /// Every element must be tested, not only those of blocks at the boundary of the range.
  var hasMask: Bool { descriptor.mask != .none }

  /// Statements for a lane's pair `float2 s` of Q Kᵀ at keys `column`, `column + 1`: scale, mean, softcap, ALiBi.
  /// - Parameters:
  ///   - keyScale: the float2 of the keys' scales, for `factor == .row`.
  func scores(keyScale: String) -> String {
    Text.lines(
      "s *= score_scale\(key.factor == .row ? " * \(keyScale)" : "");",
      when(key.layout?.hasMean == true, "s += mean_score;"),
      when(
        descriptor.hasSoftcap,
        """
        const float2 capped = precise::tanh(s / args.softcap);
        s = args.softcap * capped;
        """),
      when(descriptor.hasALiBi, "s -= slope * float2(abs(position - column), abs(position - column - 1));"))
  }

  /// Statements for one element `s[e]` at key `at`: declares `visible`, adds an additive mask.
  /// A masked key's score is undefined, and must not be used.
  var applyMask: String {
    Text.lines(
      "bool visible = at >= lowest && at < highest;",
      when(descriptor.mask == .BOOL, "visible = visible && mask_row[at * args.mask.column] != 0;"),
      when(
        descriptor.mask != .BOOL && descriptor.mask != .none,
        """
        if (visible) {
          const float bias = float(mask_row[at * args.mask.column]);
          s[e] += bias;
          visible = bias != -INFINITY;
        }
        """))
  }
}
