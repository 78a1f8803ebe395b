/// The pieces of text that read one operand.
///
/// In a tile or in registers an operand is held as `element`. Integers minus their zero point are exact in half, so a
/// scale that holds for a row or for the whole tensor stays outside (`factor`); one that differs within a row is
/// applied to each element, in float.
///
/// See eq. 34, 37 of docs/math.md.
struct OperandText {
  let operand: AttentionOperand
  let stored: AttentionKernelDescriptor.Operand
  let columns: Int
  /// The variable that holds the operand's head: `head` or `key_head`.
  let head: String
  /// The variable that holds the first row of the sequence; nil without varlen.
  let start: String?
  /// Elements of a tile are `prescale` times the integers: 16 where the two nibbles of a byte become bytes by a mask
  /// alone.
  private(set) var prescale = 1
  /// Rows in tiles are in the original domain: unrotated, with their mean.
  private(set) var isOriginal = false
  /// 8×8 matrices that a lane fills from one load of 32 bits, in registers: column c of the j-th is column
  /// `interleaved` · c + j.
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

  /// The place of the scale.
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
    case _ where isOriginal && layout?.hasMean == true: .none
    case .tensor, .tensorInBuffer: .tensor
    case .row, .block: .row
    case .rowGroups, .channel: .element
    }
  }

  /// The MSL type of an element after reading. 32-bit zero points may leave the range in which half is exact.
  var element: String {
    if isOriginal { return "float" }
    return switch stored.precision {
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    case .INT8, .INT4:
      factor == .element || (layout?.zeroPoints == .int32 && layout?.hasScaleArray == true) ? "float" : "half"
    }
  }

  /// Lets elements of tiles be prescaled; the caller multiplies with `inversePrescale`.
  mutating func choosePrescale() { prescale = stored.precision == .INT4 && isVector && element == "half" ? 16 : 1 }
  /// Lets registers hold interleaved, prescaled columns, if a SIMD group's `fragments` matrices can be filled so.
  mutating func interleaveMatrices(of fragments: Int) {
    guard isVector && isInteger && element == "half" else { return }
    let count = stored.precision == .INT4 ? 4 : 2
    guard columns % (8 * count) == 0 && fragments % count == 0 else { return }
    interleaved = count
    choosePrescale()
  }
  var inversePrescale: String { prescale == 1 ? "" : " * \(1 / Double(prescale))f" }

  /// Elements may be NaN or infinite: integers can't, unless multiplied with a scale that is.
  var mayBeNonFinite: Bool { !isInteger || factor == .element }

  /// Vector loads of four elements are legal.
  var isVector: Bool { stored.access == .vector && columns % 4 == 0 }

  /// b of the Hadamard rotation, 1 if there is nothing to rotate.
  var rotation: Int { layout?.isRotated == true && !isOriginal ? columns & -columns : 1 }
  /// A mean is still to be added.
  var hasMean: Bool { layout?.hasMean == true && !isOriginal }

  /// Lets tiles hold rows in the original domain: unrotated, with their mean. A scale stays outside where there is no
  /// mean.
  mutating func convertToOriginal() { isOriginal = true }

  // MARK: Setup

  /// Declares the head's pointers and the values that hold for the whole head.
  var setup: String { Text.lines(pointers, when(isOriginal, meanSetup)) }

  var pointers: String {
    let view = "args.\(operand)"
    let address =
      "\(view).offset + batch * \(view).batch + \(head) * \(view).head" + (start.map { " + \($0) * \(view).row" } ?? "")
    let base = stored.precision == .INT4 ? "\(operand) + (\(address)) / 2" : "\(operand) + \(address)"
    var lines = ["const device \(stored.precision.storageType) *\(pointer) = \(base);"]
    guard let layout, layout.hasScaleArray else { return lines[0] }
    let scales = "args.\(name)_scales", zeroPoints = "args.\(name)_zero_points"
    if layout.granularity == .tensorInBuffer {
      lines.append("const float \(name)_scale = float(\(name)_scales[\(scales).offset]);")
      lines.append(
        "const int \(name)_zero_point = "
          + "\(layout.zeroPoints == .none ? "0" : "\(name)_zero_points[\(zeroPoints).offset]");"
      )
    } else {
      lines.append(
        "const device \(layout.scaleStorage == .FP16 ? "half" : "float") *\(name)_scales_head = \(name)_scales "
          + "+ \(headOffset(scales));"
      )
      if layout.zeroPoints != .none {
        lines.append(
          "const device \(layout.zeroPoints == .int8 ? "char" : "int") *\(name)_zero_points_head "
            + "= \(name)_zero_points + \(headOffset(zeroPoints));"
        )
      }
    }
    return lines.joined(separator: "\n")
  }

  func headOffset(_ view: String) -> String { "\(view).offset + batch * \(view).batch + \(head) * \(view).head" }

  /// Declares the pointer to the head's mean.
  var meanSetup: String {
    when(
      layout?.hasMean == true,
      "const device float *\(name)_mean_head = \(name)_mean + \(headOffset("args.\(name)_mean"));")
  }

  /// The mean of a column.
  func mean(_ column: String) -> String { "\(name)_mean_head[(\(column)) * args.\(name)_mean.column]" }

  // MARK: Elements

  /// Index of the scale of an element in an array with the view's strides.
  func scaleIndex(_ view: String, row: String, column: String) -> String {
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
    factor == .tensor
      ? "\(name)_scale" : "float(\(name)_scales_head[\(scaleIndex("args.\(name)_scales", row: row, column: column))])"
  }

  func zeroPoint(row: String, column: String) -> String? {
    guard let layout else { return nil }
    if factor == .tensor { return layout.granularity == .tensor && layout.isSymmetric ? nil : "\(name)_zero_point" }
    return layout.zeroPoints == .none
      ? nil : "\(name)_zero_points_head[\(scaleIndex("args.\(name)_zero_points", row: row, column: column))]"
  }

  /// One element as `element`: a dequantized value, or an integer minus its zero point. Both indices must be in range.
  func value(row: String, column: String) -> String {
    let contiguous = stored.access == .vector
    let index =
      "long(\(row)) * args.\(operand).row + " + (contiguous ? "(\(column))" : "(\(column)) * args.\(operand).column")
    guard isInteger else { return "\(pointer)[\(index)]" }
    let raw = stored.precision == .INT4 ? "int4_element(\(pointer), \(index))" : "int(\(pointer)[\(index)])"
    let integer = zeroPoint(row: row, column: column).map { "(\(raw) - int(\($0)))" } ?? raw
    return factor == .element ? "float(\(integer)) * \(scale(row: row, column: column))" : "\(element)(\(integer))"
  }
}
