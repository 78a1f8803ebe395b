/// The text of one gradient of the owned rows: dQ, dK or dV, accumulated in registers as `dq`, `dk`, `dv`.
struct BackwardSumText {
  let descriptor: AttentionKernelDescriptor
  let gradient: AttentionOperand
  /// The owned operand that it is the gradient of, and the rows of the tiles that it is a sum of.
  let strip: BackwardStripText
  let leading: Int
  let block: Int
  /// The matrices of factors: one for each 8 rows of a tile.
  let weights: String
  /// With the softmax scale: dQ and dK.
  let isScaled: Bool

  var name: String { gradient.lowercase }
  private var tile: OperandText { strip.tile }
  private var own: OperandText { strip.own }
  private var hasMean: Bool { tile.hasMean }

  /// The factor of the tile's rows that enters the weights: a float2 for rows `column`, `column + 1`; nil for nothing.
  /// A scale of the whole tensor leaves the loop, unless it must not be mixed with a mean, or is not known outside the loop over heads.
  var foldedFactor: String? {
    switch tile.factor {
    case .none, .element: nil
    case .tensor: foldsTensor ? "\(tile.name)_scale" : nil
    case .row: BackwardTileText.pair("\(tile.name)_scale_tile")
    }
  }
  private var foldsTensor: Bool { hasMean || tile.layout?.granularity == .tensorInBuffer }

  /// Declares the sums.
  var clear: String {
    Text.lines(
      "simdgroup_matrix_storage<float> \(name)[\(strip.fragments)];",
      strip.each("\(name)[i].clear();"))
  }

  /// Declares the sum of the weights of the lane's row, for the mean of the tile's rows.
  var clearWeightSum: String { when(hasMean, "float \(name)_weights = 0;") }
  var resetWeightSum: String { when(hasMean, "\(name)_weights = 0;") }
  func addWeights(_ pair: String) -> String { when(hasMean, "\(name)_weights += \(pair).x + \(pair).y;") }

  /// Rows of the tile may hold NaN, which must not reach rows that don't see them.
  var needsCare: Bool { tile.mayBeNonFinite }

  private var columns: String { strip.splits > 1 ? "\(8 * strip.fragments) * part + " : "" }

  /// sums += weights · tile.
  var accumulate: String {
    let transposed = gradient == .dQ ? "" : "^T"
    let multiply = """
      // \(gradient) += \(isScaled ? "dS" : "P")\(transposed) \(tile.operand)
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        \(Text.unrolled)
        for (ushort i = 0; i < \(strip.fragments); ++i) {
          simdgroup_matrix_storage<\(tile.element)> x;
          x.load(\(tile.name)_tile + 8 * n * \(leading) + \(columns)8 * i, \(leading));
          \(name)[i].multiply(\(weights)[n], x);
        }
      }
      """
    guard needsCare else { return multiply }
    return """
      if (!\(tile.name)_careful) {
        \(multiply)
      } else {
        // 0 * NaN must not reach a row that does not see the other: row by row, without what is hidden.
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          const float2 pair = \(weights)[n].get();
          for (ushort j = 0; j < 8; ++j) {
            const ushort source = (lane & 22) | (j & 4) << 1 | (j >> 1 & 1);  // the lane that holds element j of the row
            const float weight = simd_shuffle(pair[j & 1], source);
            const bool leaves = simd_shuffle(hidden, source) >> (2 * n + (j & 1)) & 1;
            const threadgroup \(tile.element) *x = \(tile.name)_tile + (8 * n + j) * \(leading) + \(columns)origin.x;
            \(Text.unrolled)
            for (ushort i = 0; i < \(strip.fragments); ++i) {
              const float2 sum = \(name)[i].get();
              \(name)[i].set(leaves ? sum : sum + weight * float2(float(x[8 * i]), float(x[8 * i + 1])));
            }
          }
        }
      }
      """
  }

  /// After the tiles of a head: adds what the mean of its rows contributes.
  var addMean: String {
    guard hasMean else { return "" }
    return Text.lines(
      RowsText.sumOfRow("\(name)_weights"),
      when(tile.rotation > 1, strip.rotate(name, tile.rotation)),
      strip.each(Text.lines(strip.column, "\(name)[i].set(\(name)[i].get() + \(name)_weights * \(strip.mean(tile)));")),
      when(tile.rotation > 1, strip.rotate(name, tile.rotation)))
  }

  /// From sums to the gradient in the caller's basis, and stores it.
  var store: String {
    let tensor = tile.factor == .tensor && !foldsTensor ? "\(tile.name)_scale" : nil
    let factors = [isScaled ? "args.softmax_scale" : nil, tensor].compactMap { $0 }, scale = factors.joined(separator: " * ")
    let clips = descriptor.gradients.clips && own.isInteger
    let start = own.start.map { "(\($0) + row)" } ?? "row"
    return Text.lines(
      BackwardTileText.gap,
      "// \(gradient) in the caller's basis.",
      when(tile.rotation > 1, strip.rotate(name, tile.rotation)),
      when(!scale.isEmpty, strip.each("\(name)[i].set(\(name)[i].get() * \(factors.count == 1 ? scale : "(\(scale))"));")),
      when(clips && own.rotation > 1, strip.rotate(name, own.rotation)),
      when(clips, clip),
      when(clips && own.rotation > 1, strip.rotate(name, own.rotation)),
      """
      device float *\(name)_row = \(gradient) + args.\(gradient).offset + batch * args.\(gradient).batch + \(own.head) * args.\(gradient).head + \(start) * args.\(gradient).row;
      \(strip.each(
        """
        \(strip.column)
        const float2 x = \(name)[i].get();
        if (exists && column < \(own.columns)) \(name)_row[column * args.\(gradient).column] = x.x;
        if (exists && column + 1 < \(own.columns)) \(name)_row[(column + 1) * args.\(gradient).column] = x.y;
        """))
      """)
  }

  /// Elements that are stored at an end of the range have no gradient.
  private var clip: String {
    let (full, symmetric) = own.stored.precision == .INT4 ? (8, 7) : (128, 127)
    let low = own.factor == .tensor
      ? "\(own.name)_zero_point == 0 ? \(-symmetric) : \(-full)"
      : "\(own.layout?.zeroPoints == QuantizationLayout.ZeroPoints.none ? -symmetric : -full)"
    let at = "long(row) * args.\(own.operand).row + \(own.stored.access == .vector ? "(column + e)" : "(column + e) * args.\(own.operand).column")"
    let code = own.stored.precision == .INT4 ? "int4_element(\(own.pointer), \(at))" : "int(\(own.pointer)[\(at)])"
    return Text.lines(
      "// Elements at an end of the quantized range have no gradient.",
      "const int \(name)_lowest = \(low);",
      strip.each(
        """
        \(strip.column)
        float2 x = \(name)[i].get();
        for (ushort e = 0; e < 2; ++e) {
          const int code = column + e < \(own.columns) ? \(code) : 0;
          if (code <= \(name)_lowest || code >= \(symmetric)) x[e] = 0;
        }
        \(name)[i].set(x);
        """))
  }
}
