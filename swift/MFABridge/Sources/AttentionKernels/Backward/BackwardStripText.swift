/// The text that loads a strip of 8 owned rows into registers, in the basis in which the rows of the tiles are stored.
struct BackwardStripText {
  let own, tile: OperandText
  /// Matrices of a strip that a SIMD group holds, and SIMD groups that share a strip.
  let fragments, splits: Int

  private var columns: Int { own.columns }
  private var hasMean: Bool { own.hasMean }
  private var isTurned: Bool { own.rotation > 1 }
  private var becomesReal: Bool { isTurned && (hasMean || tile.rotation == 1) }
  private var turnsToTile: Bool { tile.rotation > 1 && (becomesReal || !isTurned) }

  /// The name of the array of matrices.
  var name: String { "\(own.name)_strip" }
  /// The matrices' type. Two different 16-bit types don't meet in a multiplication.
  var element: String {
    if hasMean || becomesReal || turnsToTile { return "float" }
    return own.element == tile.element ? own.element : "float"
  }
  /// The scale of the lane's row; nil for nothing.
  private var scale: String? {
    switch own.factor {
    case .none, .element: nil
    case .tensor: "\(own.name)_scale"
    case .row: "\(own.name)_factor"
    }
  }
  /// What the matrices still are to be multiplied with; nil for nothing.
  var factor: String? { hasMean ? nil : scale }

  /// The variable `column`: of the lane's first element in matrix i.
  var column: String { splits > 1 ? "const uint column = \(8 * fragments) * part + 8 * i + origin.x;" : "const uint column = 8 * i + origin.x;" }

  /// Declares the operand's pointers.
  var setup: String { Text.lines(own.setup, own.meanSetup) }

  /// Declares the matrices, and what `factor` names. Needs `setup`; `row` is the lane's.
  var load: String { Text.lines(when(!hasMean, declareFactor(row: "row")), matrices(row: "row")) }

  private func declareFactor(row: String) -> String {
    when(own.factor == .row, "const float \(own.name)_factor = \(own.scale(row: row));")
  }

  /// Declares the matrices of a lane's `row`, without `factor`.
  func matrices(row: String) -> String {
    let pair = own.loadPair(into: "\(name)[i]", type: element, row: row, column: "column")
    let isPadded = 8 * fragments * splits > (columns + 7) / 8 * 8
    return Text.lines(
      when(hasMean, declareFactor(row: row)),
      "simdgroup_matrix_storage<\(element)> \(name)[\(fragments)];",
      each(Text.lines(column, isPadded ? "if (column < \(columns)) {\n\(pair)\n} else {\n\(name)[i].set(vec<\(element), 2>(0));\n}" : pair)),
      when(hasMean && scale != nil, each("\(name)[i].set(\(name)[i].get() * \(scale ?? ""));")),
      when(becomesReal, rotate(name, own.rotation)),
      when(hasMean, each(Text.lines(column, "\(name)[i].set(\(name)[i].get() + \(mean(own)));"))),
      when(turnsToTile, rotate(name, tile.rotation)))
  }

  /// Declares `variable`: the product of the lane's row with the mean of the tiles' rows, without `factor`.
  func meanProduct(_ variable: String) -> String {
    guard tile.hasMean else { return "" }
    let real = tile.rotation > 1 ? "real" : name
    let total = splits == 1 ? "" : """
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (origin.x == 0) exchange[8 * simd_index + origin.y] = \(variable);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      \(variable) = 0;
      for (ushort i = 0; i < \(splits); ++i) \(variable) += exchange[8 * (\(splits) * strip + i) + origin.y];
      """
    return Text.lines(
      tile.meanSetup,
      "float \(variable) = 0;",
      when(tile.rotation > 1, "{"),
      when(
        tile.rotation > 1,
        Text.lines(
          "// The mean is not rotated.",
          "simdgroup_matrix_storage<float> real[\(fragments)];",
          each("real[i].set(float2(\(name)[i].get()));"),
          rotate("real", tile.rotation))),
      each(Text.lines(column, "\(variable) += dot(float2(\(real)[i].get()), \(mean(tile)));")),
      when(tile.rotation > 1, "}"),
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
    return "{\n\(HadamardText.setup(size: size))\n\(when(splits > 1 && size > 8 * fragments, "threadgroup_barrier(mem_flags::mem_threadgroup);"))\n\(rotation.rotate(matrices, exchange: "exchange"))\n}"
  }

  /// The mean of the columns `column`, `column + 1` as a float2.
  func mean(_ operand: OperandText) -> String {
    let isPadded = 8 * fragments * splits > columns
    let one = { (column: String) in isPadded ? "(\(column) < \(columns) ? \(operand.mean(column)) : 0)" : operand.mean(column) }
    return "float2(\(one("column")), \(one("column + 1")))"
  }
}
