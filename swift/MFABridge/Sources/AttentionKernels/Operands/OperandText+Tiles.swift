extension OperandText {
  /// Dequantizes rows [first, first + rows) into a tile in threadgroup memory, [rows, width] of `leading` elements a
  /// row, zero past the ends.
  /// - Parameter nonFinite: a bool variable that becomes true where an element is NaN or infinite, if the variable
  ///   `partial` is true; nil to not test.
  func dequantize(
    into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int,
    nonFinite: String? = nil
  ) -> String {
    isVector
      ? dequantizeVectors(
        into: tile, leading: leading, width: width, first: first, rows: rows, count: count, threads: threads,
        nonFinite: nonFinite)
      : dequantizeElements(
        into: tile, leading: leading, width: width, first: first, rows: rows, count: count, threads: threads,
        nonFinite: nonFinite)
  }

  func nonFiniteCheck(_ nonFinite: String?, _ lanes: Int) -> String? {
    nonFinite.map {
      "if (partial) \($0) = \($0) || \(lanes > 1 ? "any" : "")(\(Self.nonFiniteTest("x", element, lanes)));"
    }
  }

  /// A thread takes 16 bytes of a row (of FP32: 32; less where columns don't divide so) in pieces of 4 elements, so
  /// that threads side by side read and write side by side; where it can, always of the same columns.
  func dequantizeVectors(
    into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int,
    nonFinite: String?
  ) -> String {
    let most = stored.precision == .INT4 ? 32 : stored.precision == .INT8 ? 16 : 8
    // A piece past the last column is skipped, so there must be one condition for all.
    let step = width > columns ? 4 : [32, 16, 8].first { $0 <= most && columns % $0 == 0 } ?? 4
    let perRow = width / step
    let stays = threads % perRow == 0
    let loop =
      stays
      ? "const ushort c = thread_index % \(perRow) * 4;\nfor (ushort r = thread_index / \(perRow); r < \(rows); "
        + "r += \(threads / perRow)) {"
      : "for (ushort i = thread_index; i < \(rows * perRow); i += \(threads)) {\nconst ushort r = i / \(perRow), "
        + "c = i % \(perRow) * 4;"
    let offsets = (0..<step / 4).map { $0 * 4 * perRow }
    let inside = "\(first) + r < \(count)" + (width > columns ? " && c < \(columns)" : "")
    let fours = offsets.map { offset in
      let column = offset == 0 ? "c" : "c + \(offset)"
      return """
        {
          \(element)4 x;
          \(Text.lines(vectorStatements(row: "\(first) + r", column: column), nonFiniteCheck(nonFinite, 4)))
          *(threadgroup \(element)4 *)(target\(offset == 0 ? "" : " + \(offset)")) = x;
        }
        """
    }.joined(separator: "\n")
    let zeros = offsets.map { "*(threadgroup \(element)4 *)(target\($0 == 0 ? "" : " + \($0)")) = \(element)4(0);" }
      .joined(separator: "\n")
    return """
      {
        \(loop)
          threadgroup \(element) *target = \(tile) + r * \(leading) + c;
          if (\(inside)) {
            const device \(stored.precision.storageType) *source = \(pointer) + long(\(first) \
      + r) * args.\(operand).row\(stored.precision == .INT4 ? " / 2" : "");
            \(fours)
          } else {
            \(zeros)
          }
        }
      }
      """
  }

  func dequantizeElements(
    into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int,
    nonFinite: String?
  ) -> String {
    let order =
      stored.access == .transposed
      ? "const ushort r = i % \(rows), c = i / \(rows);"
      : "const ushort r = i / \(width), c = i % \(width);"
    let inside = "\(first) + r < \(count)" + (width > columns ? " && c < \(columns)" : "")
    return """
      for (ushort i = thread_index; i < \(rows * width); i += \(threads)) {
        \(order)
        \(element) x = \(element)(0);
        if (\(inside)) {
          \(Text.lines("x = \(element)(\(value(row: "\(first) + r", column: "c")));", nonFiniteCheck(nonFinite, 1)))
        }
        \(tile)[r * \(leading) + c] = x;
      }
      """
  }

  /// Tests the bits: fast math may assume that there are no NaNs.
  static func nonFiniteTest(_ x: String, _ element: String, _ lanes: Int) -> String {
    let suffix = lanes == 1 ? "" : "\(lanes)"
    let (type, exponent) =
      switch element {
      case "half": ("ushort", "0x7c00")
      case "bfloat": ("ushort", "0x7f80")
      default: ("uint", "0x7f800000")
      }
    return "(as_type<\(type)\(suffix)>(\(x)) & \(type)(\(exponent))) == \(type)(\(exponent))"
  }

  /// Loads the scales of rows [first, first + rows) into `x_scale_tile`, [rows]. For `factor == .row`.
  func loadScales(first: String, rows: Int, count: String) -> String {
    when(
      factor == .row,
      "if (thread_index < \(rows)) \(name)_scale_tile[thread_index] = \(first) + thread_index < \(count) "
        + "? \(scale(row: "\(first) + thread_index"))\(inversePrescale) : 0;"
    )
  }

  /// Statements that set `x` to the four elements from a column that is a multiple of 4. For `isVector`.
  func vectorStatements(row: String, column: String) -> String {
    let index = "\(column)"
    guard isInteger else { return "x = *(const device \(element)4 *)(source + \(index));" }
    let zero = zeroPoint(row: row, column: column)
    let read =
      stored.precision == .INT8
      ? "const char4 n = *(const device char4 *)(source + \(index));"
      : """
      const ushort nibbles = *(const device ushort *)(source + (\(index)) / 2);
      \(prescale == 1
          ? "const short4 n = short4(nibbles << 12, nibbles << 8, nibbles << 4, nibbles) >> 12;"
          : "const char4 n = as_type<char4>((uint(nibbles) << 4 | uint(nibbles) << 16) & 0xf0f0f0f0).xzyw;"
            + "  // 16 times the integers")
      """
    func four(_ f: (String) -> String) -> String { (0..<4).map { f("\(column) + \($0)") }.joined(separator: ", ") }
    switch layout?.granularity {
    case .channel:
      let minus = zero.map { _ in " - float4(\(four { zeroPoint(row: row, column: $0) ?? "0" }))" } ?? ""
      return Text.lines(read, "x = (float4(n)\(minus)) * float4(\(four { scale(row: row, column: $0) }));")
    case .rowGroups:
      return Text.lines(
        read, "x = (float4(n)\(zero.map { " - float(\($0))" } ?? "")) * \(scale(row: row, column: column));")
    default:
      return Text.lines(
        read, "x = \(element)4(n)\(zero.map { " - \(element)(\(prescale == 1 ? "" : "\(prescale) * ")\($0))" } ?? "");")
    }
  }
}
