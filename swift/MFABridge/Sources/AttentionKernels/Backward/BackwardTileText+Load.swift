extension BackwardTileText {
  func dequantize(_ tile: OperandText, leading: Int, width: Int, checksNonFinite: Bool) -> String {
    let text = tile.dequantize(
      into: "\(tile.name)_tile", leading: leading, width: width, first: "first", rows: block, count: streamedRows,
      threads: tiling.threads,
      nonFinite: checksNonFinite ? "\(tile.name)_found" : nil)
    guard checksNonFinite else { return text }
    return """
      bool \(tile.name)_found = false;
      \(text)
      \(tile.name)_found = simd_any(\(tile.name)_found);
      if (lane == 0) \(tile.name)_non_finite[simd_index] = \(tile.name)_found;
      """
  }
  var dequantizeScores: String {
    dequantize(
      scoreStreamed, leading: tiling.scoreLeading, width: tiling.scoreWidth,
      checksNonFinite: scoreSum?.skipsMasked == true)
  }
  func dequantizeWeights(checksNonFinite: Bool) -> String {
    guard let value = tiling.rotatedValue else {
      return dequantize(
        weightStreamed, leading: tiling.weightLeading, width: tiling.weightWidth,
        checksNonFinite: checksNonFinite && weightSum?.skipsMasked == true)
    }
    let strip = BackwardStripText(
      stationary: value, streamed: tiling.weightStationary, fragments: tiling.weightFragments, splits: splits)
    let (strips, pieces) = (tiling.tiles.strips, block / 8)
    let store = strip.each(
      "\(strip.name)[i].store(v_tile + 8 * n * \(tiling.weightLeading) "
        + "+ \(splits > 1 ? "\(8 * strip.fragments) * part + " : "")8 * i, \(tiling.weightLeading));"
    )
    return """
      // V in the caller's basis, by the steps of the kernel that finds dK: dP is the same number there. \
      A row past the end is hidden.
      for (ushort n = strip; n < \(max(strips, pieces)); n += \(strips)) {
        const int value_row = min(first + 8 * n + int(origin.y), key_rows - 1);
        \(strip.matrices(row: "value_row"))
        \(strips > pieces ? "if (n < \(pieces)) {\n\(store)\n}" : store)
      }
      """
  }

  /// Loads the values of which each streamed row has one: scales, L, D, each [block].
  var loadRowStatistics: String {
    let start = scoreStreamed.start.map { "\($0) + " } ?? ""
    return Text.lines(
      scoreStreamed.loadScales(first: "first", rows: block, count: streamedRows),
      when(outputs.weightGradient, weightStreamed.loadScales(first: "first", rows: block, count: streamedRows)),
      when(
        isKeySide,
        """
        if (thread_index < \(block)) {
          const bool inside = first + thread_index < query_rows;
          const long query_row = \(start)first + thread_index;
          l_tile[thread_index] = inside ? l_head[query_row * args.L.row] : -INFINITY;
          \(when(outputs.weightGradient, loadD))
        }
        """))
  }

  private var loadD: String {
    "d_tile[thread_index] = inside ? d_head[query_row * args.D.row]\(lessLogsumexpGradient) : 0;"
  }
}
