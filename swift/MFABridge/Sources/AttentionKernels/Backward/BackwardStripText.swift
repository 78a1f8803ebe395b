/// The text that loads a strip (8 stationary rows) into registers, in the domain (original or rotated) of the streamed
/// tiles.
///
/// See eq. 45 of docs/math.md.
struct BackwardStripText {
  let stationary, streamed: OperandText
  /// 8×8 matrices of a strip that a SIMD group holds; SIMD groups that share a strip (splitD).
  let fragments, splits: Int

  private var columns: Int { stationary.columns }
  private var hasMean: Bool { stationary.hasMean }
  private var isRotated: Bool { stationary.rotation > 1 }
  private var unrotates: Bool { isRotated && (hasMean || streamed.rotation == 1) }
  private var rotatesToStreamed: Bool { streamed.rotation > 1 && (unrotates || !isRotated) }

  /// The name of the array of matrices: `simdgroup_matrix_storage [fragments]`, together [8, columns].
  var name: String { "\(stationary.name)_strip" }
  /// The matrices' type. A multiplication takes no two different 16-bit types.
  var element: String {
    if hasMean || unrotates || rotatesToStreamed { return "float" }
    return stationary.element == streamed.element ? stationary.element : "float"
  }
  /// The scale of the lane's row; nil: 1.
  private var scale: String? {
    switch stationary.factor {
    case .none, .element: nil
    case .tensor: "\(stationary.name)_scale"
    case .row: "\(stationary.name)_factor"
    }
  }
  /// The factor that the matrices still lack; nil: 1.
  var factor: String? { hasMean ? nil : scale }

  /// Declares `column`, that of the lane's first element in matrix i.
  var column: String {
    splits > 1
      ? "const uint column = \(8 * fragments) * part + 8 * i + origin.x;" : "const uint column = 8 * i + origin.x;"
  }

  /// Declares the operand's pointers.
  var setup: String { Text.lines(stationary.setup, stationary.meanSetup) }

  /// Declares the matrices and the variable of `factor`. Needs `setup`; `row` is the lane's.
  var load: String { Text.lines(when(!hasMean, declareFactor(row: "row")), matrices(row: "row")) }

  private func declareFactor(row: String) -> String {
    when(stationary.factor == .row, "const float \(stationary.name)_factor = \(stationary.scale(row: row));")
  }

  /// Declares the matrices of a lane's `row`, without `factor`.
  func matrices(row: String) -> String {
    let pair = stationary.loadPair(into: "\(name)[i]", type: element, row: row, column: "column")
    let isPadded = 8 * fragments * splits > (columns + 7) / 8 * 8
    return Text.lines(
      when(hasMean, declareFactor(row: row)),
      "simdgroup_matrix_storage<\(element)> \(name)[\(fragments)];",
      each(
        Text.lines(
          column,
          isPadded
            ? "if (column < \(columns)) {\n\(pair)\n} else {\n\(name)[i].set(vec<\(element), "
              + "2>(0));\n}" : pair)),
      when(hasMean && scale != nil, each("\(name)[i].set(\(name)[i].get() * \(scale ?? ""));")),
      when(unrotates, rotate(name, stationary.rotation)),
      when(hasMean, each(Text.lines(column, "\(name)[i].set(\(name)[i].get() + \(mean(stationary)));"))),
      when(rotatesToStreamed, rotate(name, streamed.rotation)))
  }

  /// Declares `variable`: the product of the lane's row with the mean of the streamed rows, without `factor`.
  func meanProduct(_ variable: String) -> String {
    guard streamed.hasMean else { return "" }
    let unrotated = streamed.rotation > 1 ? "real" : name
    let total =
      splits == 1
      ? ""
      : """
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (origin.x == 0) exchange[8 * simd_index + origin.y] = \(variable);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      \(variable) = 0;
      for (ushort i = 0; i < \(splits); ++i) \(variable) += exchange[8 * (\(splits) * strip + i) + origin.y];
      """
    return Text.lines(
      streamed.meanSetup,
      "float \(variable) = 0;",
      when(streamed.rotation > 1, "{"),
      when(
        streamed.rotation > 1,
        Text.lines(
          "// The mean is not rotated.",
          "simdgroup_matrix_storage<float> real[\(fragments)];",
          each("real[i].set(float2(\(name)[i].get()));"),
          rotate("real", streamed.rotation))),
      each(Text.lines(column, "\(variable) += dot(float2(\(unrotated)[i].get()), \(mean(streamed)));")),
      when(streamed.rotation > 1, "}"),
      RowsText.sumOfRow(variable),
      total)
  }

  func each(_ body: String) -> String {
    """
    \(Text.unrolled)
    for (ushort i = 0; i < \(fragments); ++i) {
      \(body)
    }
    """
  }

  /// Rotates float matrices of this strip's shape.
  func rotate(_ matrices: String, _ size: Int) -> String {
    let rotation = HadamardText(size: size, fragments: fragments, splits: splits)
    return
      """
      {
      \(HadamardText.setup(size: size))
      \(when(splits > 1 && size > 8 * fragments, BackwardTileText.barrier))
      \(rotation.rotate(matrices, exchange: "exchange", isFree: false))
      }
      """
  }

  /// The mean of the columns `column`, `column + 1` as a float2.
  func mean(_ operand: OperandText) -> String {
    let isPadded = 8 * fragments * splits > columns
    let one = { (column: String) in
      isPadded ? "(\(column) < \(columns) ? \(operand.mean(column)) : 0)" : operand.mean(column)
    }
    return "float2(\(one("column")), \(one("column + 1")))"
  }
}
