/// The text that loads a strip of 8 query rows into registers, in the domain (original or rotated) of K.
///
/// See eq. 41 of docs/math.md.
struct QueryText {
  let descriptor: AttentionKernelDescriptor
  let query: OperandText
  let key: OperandText
  /// 8×8 matrices of a strip that a SIMD group holds; SIMD groups that share a strip (splitD).
  let fragments, splits: Int

  /// - Parameter key: K in the form of its tiles.
  init(_ descriptor: AttentionKernelDescriptor, key: OperandText, fragments: Int, splits: Int) {
    self.descriptor = descriptor
    (query, self.key) = (OperandText(.Q, descriptor), key)
    (self.fragments, self.splits) = (fragments, splits)
  }

  private var hasMean: Bool { query.layout?.hasMean == true }
  private var meetsKeyMean: Bool { key.layout?.hasMean == true }
  private var isRotated: Bool { query.rotation > 1 }
  /// Q passes through its original domain: K is in another domain, or a mean is to be added or multiplied with.
  private var unrotates: Bool { isRotated && (hasMean || meetsKeyMean || key.rotation == 1) }
  private var rotatesToKey: Bool { key.rotation > 1 && (unrotates || !isRotated) }

  /// The matrices' type. A multiplication takes no two different 16-bit types.
  var element: String {
    if hasMean || unrotates || rotatesToKey { return "float" }
    return query.element == key.element ? query.element : "float"
  }

  var needsHadamard: Bool { unrotates || rotatesToKey }
  /// SIMD groups that share a strip exchange values in this text.
  var needsExchange: Bool { splits > 1 && (meetsKeyMean || needsHadamard) }

  /// Declares `q[fragments]`, `score_scale`, and with a mean of K `mean_score`. `row` and `head` are the lane's.
  func load(exchange: String) -> String {
    let hadamard = HadamardText(size: max(query.rotation, key.rotation), fragments: fragments, splits: splits)
    let inside = splits > 1 || descriptor.headDimension % 8 != 0
    let column = splits > 1 ? "\(8 * fragments) * part + 8 * i + origin.x" : "8 * i + origin.x"
    let pair = query.loadPair(into: "q[i]", type: element, row: "row", column: "column")
    // Without padding, the columns of every SIMD group exist.
    let padded = splits > 1 && 8 * fragments * splits > (descriptor.headDimension + 7) / 8 * 8
    let load =
      padded && inside
      ? "if (column < \(descriptor.headDimension)) {\n\(pair)\n} else {\nq[i].set(vec<\(element), 2>(0));\n}" : pair
    let factor =
      switch query.factor {
      case .none, .element: ""
      case .tensor: "q_scale"
      case .row: "q_factor"
      }
    let folded = factor.isEmpty || hasMean ? "" : " * \(factor)"
    let natural = "args.softmax_scale\(folded)"
    return Text.lines(
      query.setup,
      query.meanSetup,
      when(query.factor == .row, "const float q_factor = \(query.scale(row: "row"));"),
      when(needsHadamard, HadamardText.setup(size: hadamard.size)),
      """
      simdgroup_matrix_storage<\(element)> q[\(fragments)];
      \(Text.unrolled)
      for (ushort i = 0; i < \(fragments); ++i) {
        const uint column = \(column);
        \(load)
      }
      """,
      when(hasMean && !factor.isEmpty, each("q[i].set(q[i].get() * \(factor));")),
      when(unrotates, hadamard.rotate("q", exchange: exchange, isFree: true)),
      when(hasMean, addMean(column)),
      when(meetsKeyMean, meanScore(column, natural, exchange)),
      when(rotatesToKey, hadamard.rotate("q", exchange: exchange, isFree: true)),
      "const float score_scale = \(natural)\(key.factor == .tensor ? " * k_scale\(key.inversePrescale)" : "");")
  }

  private func each(_ body: String) -> String {
    """
    \(Text.unrolled)
    for (ushort i = 0; i < \(fragments); ++i) {
      \(body)
    }
    """
  }

  private func pairOfMean(_ operand: OperandText) -> String {
    let columns = descriptor.headDimension
    let one = { (column: String) in
      columns % 8 == 0 && splits == 1 ? operand.mean(column) : "(\(column) < \(columns) ? \(operand.mean(column)) : 0)"
    }
    return "float2(\(one("column")), \(one("column + 1")))"
  }

  private func addMean(_ column: String) -> String {
    each(
      """
      const uint column = \(column);
      q[i].set(q[i].get() + \(pairOfMean(query)));
      """)
  }

  /// Scores of K are those of K − mean plus q · mean, the same for all keys.
  private func meanScore(_ column: String, _ scale: String, _ exchange: String) -> String {
    let total =
      splits == 1
      ? ""
      : """
      // The SIMD groups of a strip have a part of the columns each.
      if (origin.x == 0) \(exchange)[8 * simd_index + origin.y] = with_mean;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      with_mean = 0;
      for (ushort i = 0; i < \(splits); ++i) with_mean += \(exchange)[8 * (\(splits) * strip + i) + origin.y];
      threadgroup_barrier(mem_flags::mem_threadgroup);
      """
    return Text.lines(
      key.meanSetup,
      "float with_mean = 0;",
      each(
        """
        const uint column = \(column);
        with_mean += dot(float2(q[i].get()), \(pairOfMean(key)));
        """),
      RowsText.sumOfRow("with_mean"),
      total,
      "const float mean_score = with_mean * \(scale);")
  }
}
