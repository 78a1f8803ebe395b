/// The epilogue of a forward kernel: from the sums over keys to O and L (eq. 42, 45 of docs/math.md).
struct EpilogueText {
  let descriptor: AttentionKernelDescriptor
  let value: OperandText
  let fragments: Int, splits: Int

  private var column: String { splits > 1 ? "\(8 * fragments) * part + 8 * i + origin.x" : "8 * i + origin.x" }
  /// The column of the lane's first element in matrix i, before interleaved columns are reordered.
  private var valueColumn: String {
    let count = value.interleaved
    guard count > 1 else { return column }
    return
      "\(splits > 1 ? "\(8 * fragments) * part + " : "")\(8 * count) * (i / \(count)) + i % \(count) "
      + "+ \(count) * origin.x"
  }
  private var columns: Int { descriptor.valueDimension }
  private var isPadded: Bool { 8 * fragments * splits > columns }

  private func each(_ body: String) -> String {
    """
    \(Text.unrolled)
    for (ushort i = 0; i < \(fragments); ++i) {
      \(body)
    }
    """
  }

  /// Converts `output` = Σ p v of V in tiles to Σ p v in the original domain. `sum`: the row's. Interleaved columns
  /// stay so: that is an order of the bits of a column's number, under which a Hadamard matrix does not change.
  func originalValues(exchange: String, isFree: Bool) -> String {
    let hadamard = HadamardText(size: value.rotation, fragments: fragments, splits: splits)
    let rotate = hadamard.rotate("output", exchange: exchange, isFree: isFree)
    let mean = { (column: String) in
      isPadded ? "(\(column) < \(columns) ? \(value.mean(column)) : 0)" : value.mean(column)
    }
    return Text.lines(
      when(value.factor == .tensor, each("output[i].set(output[i].get() * (v_scale\(value.inversePrescale)));")),
      when(
        value.rotation > 1,
        "{\n\(HadamardText.setup(size: value.rotation))\n\(rotate)\n}"),
      when(
        value.layout?.hasMean == true,
        Text.lines(
          value.meanSetup,
          each(
            """
            const uint column = \(valueColumn);
            output[i].set(output[i].get() + sum * float2(\(mean("column")), \(mean("column + \(value.interleaved)"))));
            """))))
  }

  /// Declares `output_row`, the address of the lane's row of O. Needs row and head.
  static func outputRow(_ descriptor: AttentionKernelDescriptor) -> String {
    let start = descriptor.isVariableLength ? "(query_start + row)" : "row"
    return
      "device \(descriptor.precision(.O).storageType) *output_row = O + args.O.offset + batch * args.O.batch "
      + "+ head * args.O.head + \(start) * args.O.row;"
  }
  static func logsumexp(_ descriptor: AttentionKernelDescriptor) -> String {
    let start = descriptor.isVariableLength ? "(query_start + row)" : "row"
    return "L[args.L.offset + batch * args.L.batch + head * args.L.head + \(start) * args.L.row] = logsumexp;"
  }

  /// Writes a lane's pair `float2 x` at `column` to O.
  static func storePair(_ descriptor: AttentionKernelDescriptor, isPadded: Bool) -> String {
    let (type, columns) = (descriptor.precision(.O).storageType, descriptor.valueDimension)
    if descriptor.output.access == .vector && columns % 8 == 0 {
      let store = "*(device \(type)2 *)(output_row + column) = \(type)2(x);"
      return isPadded ? "if (column < \(columns)) \(store)" : store
    }
    let one = { (e: Int) in
      let at = e == 0 ? "column" : "column + 1"
      let store = "output_row[(\(at)) * args.O.column] = \(type)(x[\(e)]);"
      return isPadded ? "if (\(at) < \(columns)) \(store)" : store
    }
    return one(0) + "\n" + one(1)
  }

  /// The condition for one lane to write a row's L.
  private var isFirst: String { splits > 1 ? "origin.x == 0 && part == 0" : "origin.x == 0" }

  /// Writes the strip's rows of O and L.
  var store: String {
    """
    if (exists) {
      \(Self.outputRow(descriptor))
      \(each(
        """
        const uint column = \(column);
        const float2 x = output[i].get() * normaliser;
        \(Self.storePair(descriptor, isPadded: isPadded))
        """))
      \(when(descriptor.writesLogsumexp, "if (\(isFirst)) \(Self.logsumexp(descriptor))"))
    }
    """
  }
}
