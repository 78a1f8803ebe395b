/// The online softmax of a strip. `maximum` is at most 8 below the largest score so far, not always equal to it: so
/// most tiles do not rescale the output.
///
/// Weights sum to 1: the denominator is the sum of the very weights that multiply V. An FP32 sum that grows by
/// thousands of small weights above one large one loses a part of each, always the same part of equal ones. So weights,
/// and products with V, are added up by tiles before they meet the sum of all, and the sums of all keep their rounding
/// error (Kahan).
///
/// See eq. 7, 9 to 14, 19 of docs/math.md.
struct SoftmaxText {
  let score: ScoreText
  let value: OperandText
  /// 8×8 matrices of scores, and of output, in a SIMD group.
  let blocks: Int, fragments: Int

  /// Declared before the loop over keys.
  var state: String {
    """
    float maximum = -INFINITY, sum = 0, sum_excess = 0;  // sum: of this lane's keys; an excess is what rounding added
    bool seen = false;                   // this lane had a key to attend to
    simdgroup_matrix_storage<float> output[\(fragments)];
    float2 output_excess[\(fragments)];
    \(Text.unrolled)
    for (ushort i = 0; i < \(fragments); ++i) {
      output[i].clear();
      output_excess[i] = 0;
    }
    """
  }

  /// Masked keys are recorded where V may hold NaN: bit 2n + e of the caller's `uint hidden`.
  var recordsMasked: Bool { value.mayBeNonFinite }

  /// From `scores[blocks]` = Q Kᵀ of keys from `first` to weights, in place. Needs `whole`: all keys are in every row's
  /// range.
  /// - Parameters keyScale, valueScale: the scales of the keys `column`, `column + 1` as a float2, for operands with a
  ///   scale a row.
  func weights(keyScale: String, valueScale: String) -> String {
    let needsColumn = score.descriptor.hasALiBi || score.key.factor == .row
    return """
      float largest = -INFINITY;
      \(Text.unrolled)
      for (ushort n = 0; n < \(blocks); ++n) {
        \(when(needsColumn, "const int column = first + 8 * n + origin.x;"))
        float2 s = scores[n].get();
        \(score.scores(keyScale: keyScale))
        \(score.hasMask ? applyLimits : "if (whole) {\nseen = true;\n} else {\n\(applyLimits)\n}")
        largest = max(largest, max(s.x, s.y));
        scores[n].set(s);
      }
      largest = max(largest, simd_shuffle_xor(largest, 1));
      largest = max(largest, simd_shuffle_xor(largest, 8));
      if (simd_any(largest > maximum + 8)) {
        const float raised = max(maximum, largest);
        const float rescale = raised == maximum ? 1.0f : \(score.exp("maximum - raised"));
        maximum = raised;
        sum *= rescale;
        sum_excess *= rescale;
        \(Text.unrolled)
        for (ushort i = 0; i < \(fragments); ++i) {
          output[i].set(output[i].get() * rescale);
          output_excess[i] *= rescale;
        }
      }
      const float reference = maximum == -INFINITY ? 0.0f : maximum;
      float of_tile = 0;
      \(Text.unrolled)
      for (ushort n = 0; n < \(blocks); ++n) {
        \(when(value.factor == .row, "const int column = first + 8 * n + origin.x;"))
        float2 p = \(score.exp("scores[n].get() - reference"));
        of_tile += p.x + p.y;
        \(when(value.factor == .row, "p = select(p * \(valueScale), float2(0), p == 0.0f);  // not 0 * NaN"))
        scores[n].set(p);
      }
      of_tile -= sum_excess;
      const float grown = sum + of_tile;
      sum_excess = (grown - sum) - of_tile;
      sum = grown;
      """
  }

  /// Adds to output[i], output[i + 1] … the products of the tile's weights with `count` matrices of V's columns.
  /// - Parameter multiply: statements that multiply-accumulate onto `piece[j]`, for matrix i + j, the product of
  ///   `scores[n]`.
  func accumulate(count: Int, _ multiply: String) -> String {
    // Sums within a tile are short too.
    let size = min(blocks, 2)
    return """
      float2 of_tile[\(count)];
      \(Text.unrolled)
      for (ushort j = 0; j < \(count); ++j) of_tile[j] = 0;
      \(Text.unrolled)
      for (ushort first_n = 0; first_n < \(blocks); first_n += \(size)) {
        simdgroup_matrix_storage<float> piece[\(count)];
        \(Text.unrolled)
        for (ushort j = 0; j < \(count); ++j) piece[j].clear();
        \(Text.unrolled)
        for (ushort n = first_n; n < first_n + \(size); ++n) {
          \(multiply)
        }
        \(Text.unrolled)
        for (ushort j = 0; j < \(count); ++j) of_tile[j] += piece[j].get();
      }
      \(Text.unrolled)
      for (ushort j = 0; j < \(count); ++j) {
        \(add("of_tile[j]", to: "i + j"))
      }
      """
  }

  /// Adds a lane's pair to output[i].
  func add(_ pair: String, to i: String) -> String {
    """
    const float2 addend = \(pair) - output_excess[\(i)], total = output[\(i)].get() + addend;
    output_excess[\(i)] = select((total - output[\(i)].get()) - addend, float2(0), \
    \(OperandText.nonFiniteTest("total", "float", 2)));
    output[\(i)].set(total);
    """
  }

  private var applyLimits: String {
    """
    \(Text.unrolled)
    for (ushort e = 0; e < 2; ++e) {
      const int at = first + 8 * n + origin.x + e;
      \(score.applyMask)
      seen = seen || visible;
      s[e] = visible ? s[e] : -INFINITY;
      \(when(recordsMasked, "hidden |= (visible ? 0u : 1u) << (2 * n + e);"))
    }
    """
  }

  /// After the loop: `sum` and `seen` become those of the row.
  var reduce: String {
    """
    \(RowsText.sumOfRow("sum"))
    float of_row = seen ? 1.0f : 0.0f;
    \(RowsText.sumOfRow("of_row"))
    seen = of_row > 0;
    """
  }

  /// Declares `normaliser`, the factor of the output, and `logsumexp`, from maximum, sum and seen.
  /// A row without keys gives 0; one whose scores are all −∞ gives 0 / 0.
  var normalise: String {
    let sinks = score.descriptor.hasSinks
    return Text.lines(
      sinks
        ? """
        const float sink = float(sinks[args.sinks.offset + head * args.sinks.head]);
        const float top = max(maximum, sink), rescale = top == -INFINITY ? 0.0f : \(score.exp("maximum - top"));
        const float total = sum * rescale + (top == -INFINITY ? 0.0f : \(score.exp("sink - top")));
        """
        : "const float top = maximum, total = sum;",
      "const float normaliser = total == 0 ? (seen ? NAN : 0.0f) : \(sinks ? "rescale" : "1.0f") / total;",
      when(score.descriptor.writesLogsumexp, "const float logsumexp = top + precise::log(total);"))
  }
}
