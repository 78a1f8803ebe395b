extension OperandText {
  /// A pair of elements can be loaded by one access.
  var hasPairLoads: Bool { stored.access == .vector && columns % 8 == 0 && !(layout?.granularity == .channel) }

  /// Loads a lane's two elements of an 8×8 matrix of rows, in registers: `row` is the lane's row, `column` its first
  /// column.
  func loadPair(into matrix: String, type: String, row: String, column: String) -> String {
    if hasPairLoads {
      let source = "\(pointer) + long(\(row)) * args.\(operand).row" + (stored.precision == .INT4 ? " / 2" : "")
      let dequantization =
        isInteger
        ? ", \(factor == .element ? scale(row: row, column: column) : "1.0f"), "
          + "\(zeroPoint(row: row, column: column).map { "int(\($0))" } ?? "0")"
        : ""
      return "\(matrix).\(stored.precision.loadFunction)(\(source), 0, uint2(\(column), 0)\(dequantization));"
    }
    func one(_ column: String) -> String {
      let value = "\(type)(float(\(value(row: row, column: column))))"
      return columns % 8 == 0 ? value : "\(column) < \(columns) ? \(value) : \(type)(0)"
    }
    return "\(matrix).set(vec<\(type), 2>(\(one(column)), \(one("\(column) + 1"))));"
  }

  /// Declares `x_row`, a lane's address in a row. `column`: the first of the SIMD group, nil for 0. INT4 is aligned to
  /// 2 bytes only.
  func interleavedRow(row: String, column: String?) -> String {
    let perByte = stored.precision == .INT4 ? " / 2" : ""
    // The lane's column origin.x of the first matrix is column interleaved * origin.x of the row.
    let lane = stored.precision == .INT4 ? interleaved / 2 : interleaved
    let first = column.map { " + \($0)\(perByte)" } ?? ""
    return
      "const device \(stored.precision.storageType) *\(name)_row = \(pointer) "
      + "+ long(\(row)) * args.\(operand).row\(perByte)\(first) + \(lane) * origin.x;"
  }

  /// Loads a lane's part of `interleaved` matrices from its place in row `row`; `matrix`: the index of the first.
  /// - Returns: a statement that does so, and an expression for the pair of each matrix.
  func loadInterleaved(row: String, matrix: String) -> (statement: String, pairs: [String]) {
    let minus = zeroPoint(row: row, column: "0").map { " - half(\(prescale == 1 ? "" : "\(prescale) * ")\($0))" } ?? ""
    if stored.precision == .INT8 {
      let statement = """
        const char4 integers = *(const device char4 *)(\(name)_row + 8 * \(matrix));
        const half4 x = half4(integers)\(minus);
        """
      return (statement, ["x.xz", "x.yw"])
    }
    let statement = """
      const device ushort *packed = (const device ushort *)(\(name)_row + 4 * \(matrix));
      const uint nibbles = as_type<uint>(ushort2(packed[0], packed[1]));
      const char4 low = as_type<char4>(nibbles << 4 & 0xf0f0f0f0), high = as_type<char4>(nibbles & 0xf0f0f0f0);  \
      // 16 times the integers
      const half4 even = half4(low)\(minus), odd = half4(high)\(minus);
      """
    return (statement, ["even.xz", "odd.xz", "even.yw", "odd.yw"])
  }
}
