// A call in words: what the lines of `mfa_explain` say on every driver.

/// The line of a plan about memory that is not the device's.
func copied(_ bytes: Int) -> String {
  let reason =
    bytes == 0
    ? "all memory is the device's"
    : "in every call, of memory that is not whole pages: mfa_create_buffer makes memory that is the device's"
  return "copied: \(bytes) bytes (\(reason))"
}

extension Problem {
  /// The lines of a plan that say what was asked.
  var explained: [String] {
    [
      "query: \(q.form) \([q.batch, heads, q.rows, d])",
      "key: \(k.form) \([k.batch, kvHeads, k.rows, d])",
      "value: \(v.form) \([v.batch, kvHeads, v.rows, dv])",
    ] + meaning
  }

  /// The score modification and the key range: a line for each option that is set.
  private var meaning: [String] {
    var lines = ["scale: \(text(options.scale))"]
    if options.softcap > 0 { lines.append("softcap: \(text(options.softcap))") }
    if sequences.isPacked || sequences.keyLengths != nil {
      lines.append(
        "sequences: \(sequences.named)\(sequences.isPacked ? " packed" : ""), of at most \(sequences.longestQ) "
          + "queries and "
          + "\(sequences.longestK) keys")
    }
    func limit(_ width: Int64?) -> String { width.map(String.init) ?? "any" }
    if options.left != nil || options.right != nil {
      lines.append("window: \(limit(options.left)) keys before the diagonal, \(limit(options.right)) after it")
    }
    if options.hasDiagonal || options.alibi != nil {
      lines.append(
        "diagonal: \(sequences.bottomRight ? "bottom right" : "top left")\(options.causal ? ", causal" : "")\(example)")
    }
    if let mask = options.mask {
      lines.append("mask: \(mask.precision) (\(mask.precision == .bool ? "true attends" : "added"))")
    }
    if let alibi = options.alibi { lines.append("alibi: \(alibi.precision)") }
    if let sinks = options.sinks { lines.append("sinks: \(sinks.precision)") }
    return lines
  }

  /// The key ranges of the first and the last row of the first sequence that has any.
  private var example: String {
    guard let (rows, keys) = sequences.firstWithRows else { return "" }
    let shift = sequences.bottomRight ? Int64(keys) - Int64(rows) : 0
    func keyRange(_ row: Int) -> String {
      let position = Int64(row) + shift
      func bounded(_ sum: (partialValue: Int64, overflow: Bool), _ end: Int64) -> Int64 {
        sum.overflow ? end : sum.partialValue
      }
      var (low, high) = (Int64(0), Int64(keys))
      if options.causal { high = min(high, position + 1) }
      if let right = options.right { high = min(high, bounded((position + 1).addingReportingOverflow(right), high)) }
      if let left = options.left { low = max(low, bounded(position.subtractingReportingOverflow(left), 0)) }
      return low < high ? "row \(row) sees keys \(low) to \(high - 1)" : "row \(row) sees no key"
    }
    return "; " + keyRange(0) + (rows > 1 ? ", " + keyRange(rows - 1) : "") + ", of \(keys)"
  }
}

extension Sequences {
  /// Rows and keys of the first of some sequences that has rows.
  fileprivate var firstWithRows: (rows: Int, keys: Int)? {
    for index in 0..<min(named, 64) {
      let rows = bounds.map { $0.q[index + 1] - $0.q[index] } ?? longestQ
      let stored = bounds.map { $0.k[index + 1] - $0.k[index] } ?? longestK
      if rows > 0 { return (rows, keyLengths?[index] ?? stored) }
    }
    return nil
  }
}

extension Tensor {
  /// Precision and quantization in words.
  var form: String {
    guard let quantization else { return precision.description }
    var words = "\(precision)/\(quantization.granularity)"
    switch quantization.granularity {
    case .row where quantization.group < columns: words += " of \(quantization.group) columns"
    case .block, .channel: words += " of \(quantization.blockRows) rows"
    default: break
    }
    if case .many(let arrays) = quantization.parameters, arrays.half { words += "+FP16 scales" }
    return words + (quantization.hasZeroPoints ? "+zero points" : "") + (quantization.mean != nil ? "+mean" : "")
      + (quantization.rotated ? "+rotated" : "")
  }
}
