/// The pieces of text that read one operand.
///
/// In a tile or in registers an operand is held as `element`. Integers minus their zero point are exact in half, so a scale that
/// holds for a row or for the whole tensor stays outside (`factor`); one that differs within a row is applied to each element, in float.
struct OperandText {
  let operand: AttentionOperand
  let stored: AttentionKernelDescriptor.Operand
  let columns: Int
  /// The variable that holds the operand's head: `head` or `key_head`.
  let head: String
  /// The variable that holds the first row of the sequence; nil without varlen.
  let start: String?
  /// Elements of a tile are `unit` times what they stand for: 16 where the two nibbles of a byte become bytes by a mask alone.
  private(set) var unit = 1
  /// Rows in tiles are turned back and have their mean.
  private(set) var isReal = false
  /// 8×8 matrices that a lane fills from one load of 32 bits, in registers: column c of the j-th is column `interleaved` · c + j.
  private(set) var interleaved = 1

  init(_ operand: AttentionOperand, _ descriptor: AttentionKernelDescriptor) {
    self.operand = operand
    stored = descriptor.operand(operand)
    columns = descriptor.columns(operand)
    let isKey = [.K, .V, .dK, .dV].contains(operand)
    head = isKey ? "key_head" : "head"
    start = descriptor.isVariableLength ? (isKey ? "key_start" : "query_start") : nil
  }

  /// q, k, v …: the prefix of names, and the pointer to the head's first row (of the sequence).
  var name: String { operand.lowercase }
  var pointer: String { "\(name)_head" }
  var layout: QuantizationLayout? { stored.quantization }
  var isInteger: Bool { stored.precision.isInteger }

  // MARK: Decisions

  /// Where the scale enters.
  enum Factor: Hashable {
    /// No scale.
    case none
    /// `x_scale`, one for the tensor.
    case tensor
    /// `x_row_scale(row)`, one for each row.
    case row
    /// Applied to each element as it is read.
    case element
  }
  var factor: Factor {
    switch layout?.granularity {
    case nil: .none
    case _ where isReal && layout?.hasMean == true: .none
    case .tensor, .tensorInBuffer: .tensor
    case .row, .block: .row
    case .rowGroups, .channel: .element
    }
  }

  /// The MSL type of an element after reading. 32-bit zero points may leave the range in which half is exact.
  var element: String {
    if isReal { return "float" }
    return switch stored.precision {
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    case .INT8, .INT4: factor == .element || (layout?.zeroPoints == .int32 && layout?.hasScaleArray == true) ? "float" : "half"
    }
  }

  /// Lets tiles be in another unit; the caller multiplies with `perUnit`.
  mutating func chooseUnit() { unit = stored.precision == .INT4 && isVector && element == "half" ? 16 : 1 }
  /// Lets registers hold interleaved columns, in their unit, if a SIMD group's `fragments` matrices can be filled so.
  mutating func interleaveMatrices(of fragments: Int) {
    guard isVector && isInteger && element == "half" else { return }
    let count = stored.precision == .INT4 ? 4 : 2
    guard columns % (8 * count) == 0 && fragments % count == 0 else { return }
    interleaved = count
    chooseUnit()
  }
  var perUnit: String { unit == 1 ? "" : " * \(1 / Double(unit))f" }

  /// Elements may be NaN or infinite: integers can't, unless multiplied with a scale that is.
  var mayBeNonFinite: Bool { !isInteger || factor == .element }

  /// Vector loads of four elements are legal.
  var isVector: Bool { stored.access == .vector && columns % 4 == 0 }

  /// b of the Hadamard rotation, 1 if there is nothing to rotate.
  var rotation: Int { layout?.isRotated == true && !isReal ? columns & -columns : 1 }
  /// A mean is still to be added.
  var hasMean: Bool { layout?.hasMean == true && !isReal }

  /// Lets tiles hold rows in the caller's basis: turned back, with their mean. A scale stays outside where there is no mean.
  mutating func becomeReal() { isReal = true }

  // MARK: Setup

  /// Declares the head's pointers and what holds for the whole head.
  var setup: String { Text.lines(pointers, when(isReal, meanSetup)) }

  private var pointers: String {
    let view = "args.\(operand)"
    let address = "\(view).offset + batch * \(view).batch + \(head) * \(view).head" + (start.map { " + \($0) * \(view).row" } ?? "")
    let base = stored.precision == .INT4 ? "\(operand) + (\(address)) / 2" : "\(operand) + \(address)"
    var lines = ["const device \(stored.precision.storageType) *\(pointer) = \(base);"]
    guard let layout, layout.hasScaleArray else { return lines[0] }
    let scales = "args.\(name)_scales", zeroPoints = "args.\(name)_zero_points"
    if layout.granularity == .tensorInBuffer {
      lines.append("const float \(name)_scale = float(\(name)_scales[\(scales).offset]);")
      lines.append("const int \(name)_zero_point = \(layout.zeroPoints == .none ? "0" : "\(name)_zero_points[\(zeroPoints).offset]");")
    } else {
      lines.append("const device \(layout.scaleStorage == .FP16 ? "half" : "float") *\(name)_scales_head = \(name)_scales + \(headOffset(scales));")
      if layout.zeroPoints != .none {
        lines.append("const device \(layout.zeroPoints == .int8 ? "char" : "int") *\(name)_zero_points_head = \(name)_zero_points + \(headOffset(zeroPoints));")
      }
    }
    return lines.joined(separator: "\n")
  }

  private func headOffset(_ view: String) -> String { "\(view).offset + batch * \(view).batch + \(head) * \(view).head" }

  /// Declares the pointer to the head's mean.
  var meanSetup: String {
    when(layout?.hasMean == true, "const device float *\(name)_mean_head = \(name)_mean + \(headOffset("args.\(name)_mean"));")
  }

  /// The mean of a column.
  func mean(_ column: String) -> String { "\(name)_mean_head[(\(column)) * args.\(name)_mean.column]" }

  // MARK: Elements

  /// Index of the scale of an element in an array with the view's strides.
  private func scaleIndex(_ view: String, row: String, column: String) -> String {
    let absolute = start.map { "(\($0) + \(row))" } ?? "(\(row))"
    let rows = "long(\(absolute))", blocks = "long(\(absolute) / int(args.\(name)_block_rows))"
    return switch layout?.granularity {
    case .row: "\(rows) * \(view).row"
    case .rowGroups(let size): "\(rows) * \(view).row + (\(column)) / \(size) * \(view).column"
    case .block: "\(blocks) * \(view).row"
    case .channel: "\(blocks) * \(view).row + (\(column)) * \(view).column"
    case .tensor, .tensorInBuffer, nil: "0"
    }
  }

  /// The scale of an element or, with `factor == .row`, of a row.
  func scale(row: String, column: String = "0") -> String {
    factor == .tensor ? "\(name)_scale" : "float(\(name)_scales_head[\(scaleIndex("args.\(name)_scales", row: row, column: column))])"
  }

  private func zeroPoint(row: String, column: String) -> String? {
    guard let layout else { return nil }
    if factor == .tensor { return layout.granularity == .tensor && layout.isSymmetric ? nil : "\(name)_zero_point" }
    return layout.zeroPoints == .none ? nil : "\(name)_zero_points_head[\(scaleIndex("args.\(name)_zero_points", row: row, column: column))]"
  }

  /// One element as `element`: a real value, or an integer minus its zero point. Both indices must be in range.
  func value(row: String, column: String) -> String {
    let contiguous = stored.access == .vector
    let index = "long(\(row)) * args.\(operand).row + " + (contiguous ? "(\(column))" : "(\(column)) * args.\(operand).column")
    guard isInteger else { return "\(pointer)[\(index)]" }
    let raw = stored.precision == .INT4 ? "int4_element(\(pointer), \(index))" : "int(\(pointer)[\(index)])"
    let integer = zeroPoint(row: row, column: column).map { "(\(raw) - int(\($0)))" } ?? raw
    return factor == .element ? "float(\(integer)) * \(scale(row: row, column: column))" : "\(element)(\(integer))"
  }

  /// Statements that set `x` to the four elements from a column that is a multiple of 4. For `isVector`.
  private func vectorStatements(row: String, column: String) -> String {
    let index = "\(column)"
    guard isInteger else { return "x = *(const device \(element)4 *)(source + \(index));" }
    let zero = zeroPoint(row: row, column: column)
    let read = stored.precision == .INT8
      ? "const char4 n = *(const device char4 *)(source + \(index));"
      : """
        const ushort nibbles = *(const device ushort *)(source + (\(index)) / 2);
        \(unit == 1
          ? "const short4 n = short4(nibbles << 12, nibbles << 8, nibbles << 4, nibbles) >> 12;"
          : "const char4 n = as_type<char4>((uint(nibbles) << 4 | uint(nibbles) << 16) & 0xf0f0f0f0).xzyw;  // 16 times the integers")
        """
    func four(_ f: (String) -> String) -> String { (0..<4).map { f("\(column) + \($0)") }.joined(separator: ", ") }
    switch layout?.granularity {
    case .channel:
      let minus = zero.map { _ in " - float4(\(four { zeroPoint(row: row, column: $0) ?? "0" }))" } ?? ""
      return Text.lines(read, "x = (float4(n)\(minus)) * float4(\(four { scale(row: row, column: $0) }));")
    case .rowGroups:
      return Text.lines(read, "x = (float4(n)\(zero.map { " - float(\($0))" } ?? "")) * \(scale(row: row, column: column));")
    default:
      return Text.lines(read, "x = \(element)4(n)\(zero.map { " - \(element)(\(unit == 1 ? "" : "\(unit) * ")\($0))" } ?? "");")
    }
  }

  // MARK: Tiles

  /// Expands rows [first, first + rows) into a tile in threadgroup memory, `width` columns wide, zero past the ends.
  /// - Parameter nonFinite: a bool variable that becomes true where an element is NaN or infinite, if the variable `partial` is true;
  ///   nil to not look.
  func expand(into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int, nonFinite: String? = nil) -> String {
    isVector
      ? expandVectors(into: tile, leading: leading, width: width, first: first, rows: rows, count: count, threads: threads, nonFinite: nonFinite)
      : expandElements(into: tile, leading: leading, width: width, first: first, rows: rows, count: count, threads: threads, nonFinite: nonFinite)
  }

  private func look(_ nonFinite: String?, _ lanes: Int) -> String? {
    nonFinite.map { "if (partial) \($0) = \($0) || \(lanes > 1 ? "any" : "")(\(Self.nonFiniteTest("x", element, lanes)));" }
  }

  /// A thread takes 16 bytes of a row (of FP32: 32; less where columns don't divide so) in pieces of 4 elements, so that threads side by
  /// side read and write side by side; where it can, always of the same columns.
  private func expandVectors(into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int, nonFinite: String?) -> String {
    let most = stored.precision == .INT4 ? 32 : stored.precision == .INT8 ? 16 : 8
    // A piece past the last column is left out, so there must be one condition for all.
    let step = width > columns ? 4 : [32, 16, 8].first { $0 <= most && columns % $0 == 0 } ?? 4
    let perRow = width / step
    let stays = threads % perRow == 0
    let loop = stays
      ? "const ushort c = thread_index % \(perRow) * 4;\nfor (ushort r = thread_index / \(perRow); r < \(rows); r += \(threads / perRow)) {"
      : "for (ushort i = thread_index; i < \(rows * perRow); i += \(threads)) {\nconst ushort r = i / \(perRow), c = i % \(perRow) * 4;"
    let offsets = (0..<step / 4).map { $0 * 4 * perRow }
    let inside = "\(first) + r < \(count)" + (width > columns ? " && c < \(columns)" : "")
    let fours = offsets.map { offset in
      let column = offset == 0 ? "c" : "c + \(offset)"
      return """
        {
          \(element)4 x;
          \(Text.lines(vectorStatements(row: "\(first) + r", column: column), look(nonFinite, 4)))
          *(threadgroup \(element)4 *)(target\(offset == 0 ? "" : " + \(offset)")) = x;
        }
        """
    }.joined(separator: "\n")
    let zeros = offsets.map { "*(threadgroup \(element)4 *)(target\($0 == 0 ? "" : " + \($0)")) = \(element)4(0);" }.joined(separator: "\n")
    return """
      {
        \(loop)
          threadgroup \(element) *target = \(tile) + r * \(leading) + c;
          if (\(inside)) {
            const device \(stored.precision.storageType) *source = \(pointer) + long(\(first) + r) * args.\(operand).row\(stored.precision == .INT4 ? " / 2" : "");
            \(fours)
          } else {
            \(zeros)
          }
        }
      }
      """
  }

  private func expandElements(into tile: String, leading: Int, width: Int, first: String, rows: Int, count: String, threads: Int, nonFinite: String?) -> String {
    let order = stored.access == .transposed
      ? "const ushort r = i % \(rows), c = i / \(rows);"
      : "const ushort r = i / \(width), c = i % \(width);"
    let inside = "\(first) + r < \(count)" + (width > columns ? " && c < \(columns)" : "")
    return """
      for (ushort i = thread_index; i < \(rows * width); i += \(threads)) {
        \(order)
        \(element) x = \(element)(0);
        if (\(inside)) {
          \(Text.lines("x = \(element)(\(value(row: "\(first) + r", column: "c")));", look(nonFinite, 1)))
        }
        \(tile)[r * \(leading) + c] = x;
      }
      """
  }

  /// By bits: fast math may assume that there are no NaNs.
  static func nonFiniteTest(_ x: String, _ element: String, _ lanes: Int) -> String {
    let suffix = lanes == 1 ? "" : "\(lanes)"
    let (type, exponent) = switch element {
    case "half": ("ushort", "0x7c00")
    case "bfloat": ("ushort", "0x7f80")
    default: ("uint", "0x7f800000")
    }
    return "(as_type<\(type)\(suffix)>(\(x)) & \(type)(\(exponent))) == \(type)(\(exponent))"
  }

  /// Keeps the scales of rows [first, first + rows) in `x_scale_tile`. For `factor == .row`.
  func expandScales(first: String, rows: Int, count: String) -> String {
    when(factor == .row, "if (thread_index < \(rows)) \(name)_scale_tile[thread_index] = \(first) + thread_index < \(count) ? \(scale(row: "\(first) + thread_index"))\(perUnit) : 0;")
  }

  // MARK: Registers

  /// A pair of elements can be loaded by one access.
  var hasPairLoads: Bool { stored.access == .vector && columns % 8 == 0 && !(layout?.granularity == .channel) }

  /// Loads a lane's two elements of an 8×8 matrix of rows, in registers: `row` is the lane's row, `column` its first column.
  func loadPair(into matrix: String, type: String, row: String, column: String) -> String {
    if hasPairLoads {
      let source = "\(pointer) + long(\(row)) * args.\(operand).row" + (stored.precision == .INT4 ? " / 2" : "")
      let dequantization = isInteger ? ", \(factor == .element ? scale(row: row, column: column) : "1.0f"), \(zeroPoint(row: row, column: column).map { "int(\($0))" } ?? "0")" : ""
      return "\(matrix).\(stored.precision.loadFunction)(\(source), 0, uint2(\(column), 0)\(dequantization));"
    }
    func one(_ column: String) -> String {
      let value = "\(type)(float(\(value(row: row, column: column))))"
      return columns % 8 == 0 ? value : "\(column) < \(columns) ? \(value) : \(type)(0)"
    }
    return "\(matrix).set(vec<\(type), 2>(\(one(column)), \(one("\(column) + 1"))));"
  }
}

extension OperandText {
  /// Declares `x_row`, a lane's place in a row. `column`: the first of the SIMD group, nil for 0. INT4 is aligned to 2 bytes only.
  func interleavedRow(row: String, column: String?) -> String {
    let perByte = stored.precision == .INT4 ? " / 2" : ""
    // The lane's column origin.x of the first matrix is column interleaved * origin.x of the row.
    let lane = stored.precision == .INT4 ? interleaved / 2 : interleaved
    let first = column.map { " + \($0)\(perByte)" } ?? ""
    return "const device \(stored.precision.storageType) *\(name)_row = \(pointer) + long(\(row)) * args.\(operand).row\(perByte)\(first) + \(lane) * origin.x;"
  }

  /// Loads a lane's part of `interleaved` matrices from its place in row `row`; `matrix`: the index of the first.
  /// - Returns: a statement that does so, and an expression for the pair of each matrix.
  func loadInterleaved(row: String, matrix: String) -> (statement: String, pairs: [String]) {
    let minus = zeroPoint(row: row, column: "0").map { " - half(\(unit == 1 ? "" : "\(unit) * ")\($0))" } ?? ""
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
      const char4 low = as_type<char4>(nibbles << 4 & 0xf0f0f0f0), high = as_type<char4>(nibbles & 0xf0f0f0f0);  // 16 times the integers
      const half4 even = half4(low)\(minus), odd = half4(high)\(minus);
      """
    return (statement, ["even.xz", "odd.xz", "even.yw", "odd.yw"])
  }
}

extension GEMMOperandPrecision {
  /// The member of `simdgroup_matrix_storage` that loads elements stored like this.
  var loadFunction: String {
    switch self {
    case .FP32, .FP16, .BF16: "load"
    case .INT8: "load_quantized_int8"
    case .INT4: "load_quantized_int4"
    }
  }
}

extension AttentionKernelDescriptor {
  /// The member of `simdgroup_matrix_storage` that loads an operand.
  public func loadFunction(_ operand: AttentionOperand) -> String { precision(operand).loadFunction }

  /// A call of it, with scale and zero point of a tensor-wise quantized operand.
  public func loadCall(_ operand: AttentionOperand, src: String, leadingDim: String, origin: String, transpose: Bool) -> String {
    let quantization = isQuantized(operand) ? ", \(operand.lowercase)_scale, \(operand.lowercase)_zero_point" : ""
    return "\(loadFunction(operand))(\(src), \(leadingDim), \(origin)\(quantization), \(transpose))"
  }
}

extension AttentionKernel {
  public func isQuantized(_ operand: AttentionOperand) -> Bool { descriptor.isQuantized(operand) }
  public func loadFunction(_ operand: AttentionOperand) -> String { descriptor.loadFunction(operand) }
  public func loadCall(_ operand: AttentionOperand, src: String, leadingDim: String, origin: String, transpose: Bool) -> String {
    descriptor.loadCall(operand, src: src, leadingDim: leadingDim, origin: origin, transpose: transpose)
  }
}
