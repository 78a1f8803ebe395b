/// The text of one gradient of the stationary rows: dQ, dK or dV, accumulated in registers as `dq`, `dk`, `dv`.
///
/// See eq. 23, 28, 29, 47 of docs/math.md.
struct BackwardSumText {
  let descriptor: AttentionKernelDescriptor
  let gradient: AttentionOperand
  /// The stationary operand whose gradient this is, and the streamed rows that are summed.
  let strip: BackwardStripText
  let leading: Int
  let block: Int
  /// The name of the matrices of factors, [block / 8]: one for each 8 rows of a tile.
  let weights: String
  /// The gradient contains the softmax scale: dQ and dK.
  let isScaled: Bool

  var name: String { gradient.lowercase }
  private var streamed: OperandText { strip.streamed }
  private var stationary: OperandText { strip.stationary }
  private var hasMean: Bool { streamed.hasMean }

  /// The factor of the streamed rows that enters the weights: a float2 for rows `column`, `column + 1`; nil: 1. A scale
  /// of the whole tensor leaves the loop, unless it must not be mixed with a mean, or is not known outside the loop
  /// over heads.
  var foldedFactor: String? {
    switch streamed.factor {
    case .none, .element: nil
    case .tensor: foldsTensor ? "\(streamed.name)_scale" : nil
    case .row: BackwardTileText.pair("\(streamed.name)_scale_tile")
    }
  }
  private var foldsTensor: Bool { hasMean || streamed.layout?.granularity == .tensorInBuffer }

  /// Declares the sums: `simdgroup_matrix_storage<float> [fragments]`, together [8, columns].
  var clear: String {
    Text.lines(
      "simdgroup_matrix_storage<float> \(name)[\(strip.fragments)];",
      strip.each("\(name)[i].clear();"))
  }

  /// Declares the sum of the weights of the lane's row, for the mean of the streamed rows.
  var clearWeightSum: String { when(hasMean, "float \(name)_weights = 0;") }
  var resetWeightSum: String { when(hasMean, "\(name)_weights = 0;") }
  func addWeights(_ pair: String) -> String { when(hasMean, "\(name)_weights += \(pair).x + \(pair).y;") }

  /// Streamed rows may hold NaN, which must not reach rows for which they are masked.
  var skipsMasked: Bool { streamed.mayBeNonFinite }

  private var columns: String { strip.splits > 1 ? "\(8 * strip.fragments) * part + " : "" }

  /// sums += weights · tile, [8, block] · [block, columns].
  var accumulate: String {
    let transposed = gradient == .dQ ? "" : "^T"
    let multiply = """
      // \(gradient) += \(isScaled ? "dS" : "P")\(transposed) \(streamed.operand)
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        \(Text.unrolled)
        for (ushort i = 0; i < \(strip.fragments); ++i) {
          simdgroup_matrix_storage<\(streamed.element)> x;
          x.load(\(streamed.name)_tile + 8 * n * \(leading) + \(columns)8 * i, \(leading));
          \(name)[i].multiply(\(weights)[n], x);
        }
      }
      """
    guard skipsMasked else { return multiply }
    return """
      if (!\(streamed.name)_careful) {
        \(multiply)
      } else {
        // 0 * NaN must not reach a row that does not see the other: row by row, without what is hidden.
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          const float2 pair = \(weights)[n].get();
          for (ushort j = 0; j < 8; ++j) {
            const ushort source = (lane & 22) | (j & 4) << 1 | (j >> 1 & 1);  \
      // the lane that holds element j of the row
            const float weight = simd_shuffle(pair[j & 1], source);
            const bool leaves = simd_shuffle(hidden, source) >> (2 * n + (j & 1)) & 1;
            const threadgroup \(streamed.element) *x = \(streamed.name)_tile + (8 * n + j) * \(leading) \
      + \(columns)origin.x;
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

  /// Adds the contribution of the rows' mean, after the tiles of a head.
  var addMean: String {
    guard hasMean else { return "" }
    return Text.lines(
      RowsText.sumOfRow("\(name)_weights"),
      when(streamed.rotation > 1, strip.rotate(name, streamed.rotation)),
      strip.each(
        Text.lines(strip.column, "\(name)[i].set(\(name)[i].get() + \(name)_weights * \(strip.mean(streamed)));")),
      when(streamed.rotation > 1, strip.rotate(name, streamed.rotation)))
  }

  /// Converts the sums to the gradient in the original domain, and stores it.
  var store: String {
    let tensor = streamed.factor == .tensor && !foldsTensor ? "\(streamed.name)_scale" : nil
    let factors = [isScaled ? "args.softmax_scale" : nil, tensor].compactMap { $0 },
      scale = factors.joined(separator: " * ")
    let clips = descriptor.gradients.clips && stationary.isInteger
    let start = stationary.start.map { "(\($0) + row)" } ?? "row"
    return Text.lines(
      BackwardTileText.gap,
      "// \(gradient) in the caller's basis.",
      when(streamed.rotation > 1, strip.rotate(name, streamed.rotation)),
      when(
        !scale.isEmpty, strip.each("\(name)[i].set(\(name)[i].get() * \(factors.count == 1 ? scale : "(\(scale))"));")),
      when(clips && stationary.rotation > 1, strip.rotate(name, stationary.rotation)),
      when(clips, clip),
      when(clips && stationary.rotation > 1, strip.rotate(name, stationary.rotation)),
      """
      device float *\(name)_row = \(gradient) + args.\(gradient).offset + batch * args.\(gradient).batch \
      + \(stationary.head) * args.\(gradient).head + \(start) * args.\(gradient).row;
      \(strip.each(
        """
        \(strip.column)
        const float2 x = \(name)[i].get();
        if (exists && column < \(stationary.columns)) \(name)_row[column * args.\(gradient).column] = x.x;
        if (exists && column + 1 < \(stationary.columns)) \(name)_row[(column + 1) * args.\(gradient).column] = x.y;
        """))
      """)
  }

  /// Elements that are stored at an end of the range have no gradient.
  private var clip: String {
    let (full, symmetric) = stationary.stored.precision == .INT4 ? (8, 7) : (128, 127)
    let low =
      stationary.factor == .tensor
      ? "\(stationary.name)_zero_point == 0 ? \(-symmetric) : \(-full)"
      : "\(stationary.layout?.zeroPoints == QuantizationLayout.ZeroPoints.none ? -symmetric : -full)"
    let stride = stationary.stored.access == .vector ? "" : " * args.\(stationary.operand).column"
    let at = "long(row) * args.\(stationary.operand).row + (column + e)\(stride)"
    let code =
      stationary.stored.precision == .INT4
      ? "int4_element(\(stationary.pointer), \(at))" : "int(\(stationary.pointer)[\(at)])"
    return Text.lines(
      "// Elements at an end of the quantized range have no gradient.",
      "const int \(name)_lowest = \(low);",
      strip.each(
        """
        \(strip.column)
        float2 x = \(name)[i].get();
        for (ushort e = 0; e < 2; ++e) {
          const int code = column + e < \(stationary.columns) ? \(code) : 0;
          if (code <= \(name)_lowest || code >= \(symmetric)) x[e] = 0;
        }
        \(name)[i].set(x);
        """))
  }
}
