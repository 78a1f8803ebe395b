/// See eq. 22, 26, 27 of docs/math.md.
extension BackwardTileText {
  /// In place: `scores` become dS (with `outputs.weightGradient`), `weights` become P.
  var gradients: String {
    let l = isKeySide ? "l[e]" : "l", d = isKeySide ? "d[e]" : "d"
    let scoreScale =
      scoreStreamed.factor == .row ? "(score_scale * \(Self.pair("\(scoreStreamed.name)_scale_tile")))" : "score_scale"
    let gradientScale =
      weightStreamed.factor == .row
      ? "(gradient_scale * \(Self.pair("\(weightStreamed.name)_scale_tile")))" : "gradient_scale"
    let usesSoftcapDerivative = descriptor.hasSoftcap && outputs.softcapDerivative && outputs.weightGradient
    let needsDS = outputs.weightGradient
    let perElement = Text.lines(
      "const int at = column + e;",
      "bool visible = whole || (at >= lowest && at < highest);",
      when(isKeySide, "visible = visible && l[e] != -INFINITY;"),
      maskText,
      "p[e] = visible ? fast::exp2((s[e] - \(l)) * \(ScoreText.log2e)) : 0.0f;",
      when(outputs.dSum, "d_sum += visible ? p[e] * dp[e] : 0.0f;"),
      when(
        needsDS,
        "ds[e] = visible ? p[e] * (dp[e] - \(d))\(usesSoftcapDerivative ? " * (1.0f - capped[e] * capped[e])" : "") "
          + ": 0.0f;"
      ),
      when(skipsMasked, "hidden |= (visible ? 0u : 1u) << (2 * n + e);"))
    return Text.lines(
      Self.gap,
      "// P = exp(S - L)\(when(needsDS, "; dS = P (dP - D)"))",
      when(skipsMasked, "uint hidden = 0;"),
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      "const int column = first + 8 * n + origin.x;",
      when(isKeySide, "const float2 l = \(Self.pair("l_tile"));"),
      when(isKeySide && needsDS, "const float2 d = \(Self.pair("d_tile"));"),
      "float2 s = scores[n].get() * \(scoreScale)\(when(scoreStreamed.hasMean, " + score_mean"));",
      when(descriptor.hasSoftcap, "const float2 capped = precise::tanh(s / args.softcap);\ns = args.softcap * capped;"),
      when(descriptor.hasALiBi, "s -= alibi_slope * float2(abs(position - column), abs(position - column - 1));"),
      when(
        needsDS,
        "const float2 dp = weights[n].get() * \(gradientScale)\(when(weightStreamed.hasMean, " + gradient_mean"));"),
      "float2 p\(when(needsDS, ", ds"));",
      Text.unrolled,
      "for (ushort e = 0; e < 2; ++e) {\n\(perElement)\n}",
      scoreSum?.addWeights("ds"),
      when(
        needsDS,
        scoreSum?.foldedFactor.map {
          "ds = select(ds * \($0), float2(0), ds == 0.0f);  // not 0 * NaN, of a row that is hidden"
        } ?? ""),
      when(needsDS, "scores[n].set(ds);"),
      when(weightSum != nil, "weights[n].set(p);"),
      "}")
  }

  var maskText: String {
    switch descriptor.mask {
    case .none: ""
    case .BOOL: "visible = visible && mask_row[at * mask_stride] != 0;"
    case .FP32, .FP16, .BF16:
      """
      if (visible) {
        const float bias = float(mask_row[at * mask_stride]);
        s[e] += bias;
        visible = bias != -INFINITY;
      }
      """
    }
  }
}
