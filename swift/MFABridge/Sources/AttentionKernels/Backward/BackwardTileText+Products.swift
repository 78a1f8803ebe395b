/// See eq. 24 of docs/math.md.
extension BackwardTileText {
  /// `result` = stationary · streamedᵀ, [8, block]. `matrices`: those of the strip.
  func product(_ strip: BackwardStripText, into result: String, leading: Int, matrices: String) -> String {
    let streamed = strip.streamed
    let columns = splits > 1 ? "\(8 * strip.fragments) * part + " : ""
    return """
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) \(result)[n].clear();
      \(Text.unrolled)
      for (\(matrices); ++i) {
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          simdgroup_matrix_storage<\(streamed.element)> x;
          x.load(\(streamed.name)_tile + 8 * n * \(leading) + \(columns)8 * i, \(leading), true);
          \(result)[n].multiply(\(strip.name)[i], x);
        }
      }
      """
  }

  var transposed: String { isKeySide ? "^T" : "" }

  var multiplyScores: String {
    let matrices = "ushort i = 0; i < \(scoreStrip.fragments)"
    return """

      // S\(transposed) = \(scoreStrip.stationary.operand) \(scoreStreamed.operand)^T
      \(product(scoreStrip, into: "scores", leading: tiling.scoreLeading, matrices: matrices))
      """
  }

  var multiplyWeights: String {
    let (strip, pieces, count) = (weightStrip, tiling.pieces, tiling.pieceFragments)
    let title = "// dP\(transposed) = \(strip.stationary.operand) \(weightStreamed.operand)^T"
    if pieces == 1 {
      return "\n"
        + Text.lines(
          title,
          product(
            strip, into: "weights", leading: tiling.weightLeading, matrices: "ushort i = 0; i < \(strip.fragments)"))
    }
    let isWhole = pieces * count == strip.fragments
    let matrices = "ushort i = \(count) * p; i < \(count) * (p + 1)\(isWhole ? "" : " && i < \(strip.fragments)")"
    let keep =
      splits > 1
      ? "piece[n].store(exchange + simd_index * \(exchangeShare) + \(8 * block) * (1 + p) + 8 * n, \(block));"
      : "weights[n].set(weights[n].get() + piece[n].get());"
    return Text.lines(
      "\n\(title), piece by piece as in the kernel that cuts rows most: the same number, against which D cancels",
      when(splits == 1, "\(Text.unrolled)\nfor (ushort n = 0; n < \(block / 8); ++n) weights[n].clear();"),
      """
      \(Text.unrolled)
      for (ushort p = 0; p < \(pieces); ++p) {
        simdgroup_matrix_storage<float> piece[\(block / 8)];
        \(product(strip, into: "piece", leading: tiling.weightLeading, matrices: matrices))
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) \(keep)
      }
      """)
  }

  /// Sums the products over the SIMD groups that share a strip.
  var exchangeParts: String {
    guard splits > 1 else { return "" }
    var products = [(name: "scores", pieces: 1, offset: "")]
    if outputs.weightGradient {
      products.append(
        ("weights", tiling.pieces, "\(8 * block)\(tiling.pieces > 1 ? " * (1 + i % \(tiling.pieces))" : "") + "))
    }
    return Text.lines(
      Self.gap,
      "// The SIMD groups of a strip have a part of the columns each.",
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      // Pieces are stored already.
      products.filter { $0.pieces == 1 }.map {
        "\($0.name)[n].store(exchange + simd_index * \(exchangeShare) + \($0.offset)8 * n, \(block));"
      }.joined(separator: "\n"),
      "}",
      Self.barrier,
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      products.map { name, pieces, offset in
        """
        float2 \(name)_total = 0;
        for (ushort i = 0; i < \(splits * pieces); ++i) {
          simdgroup_matrix_storage<float> addend;
          addend.load(exchange + (\(splits) * strip + i\(pieces > 1 ? " / \(pieces)" : "")) * \(exchangeShare) \
        + \(offset)8 * n, \(block));
          \(name)_total += addend.get();
        }
        \(name)[n].set(\(name)_total);
        """
      }.joined(separator: "\n"),
      "}")
  }
}
