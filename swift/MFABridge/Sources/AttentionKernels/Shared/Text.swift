/// Formats the text of a kernel: pieces are written without regard to their depth of nesting.
enum Text {
  /// Indents by the depth of brackets; drops blank lines at the edges of blocks, and repeated ones.
  static func formatted(_ text: String) -> String {
    var lines: [String] = []
    var depth = 0
    for raw in text.split(separator: "\n", omittingEmptySubsequences: false) {
      let line = raw.drop { $0 == " " }.replacing(absent, with: "")
      if line.isEmpty {
        if raw.contains(absent) { continue }
        if let last = lines.last, !last.isEmpty, !last.hasSuffix("{") { lines.append("") }
        continue
      }
      let code = line.hasPrefix("//") ? "" : line
      let closesFirst = code.prefix { "})]".contains($0) }.count
      let closing = closesFirst > 0
      if closing, lines.last == "" { lines.removeLast() }
      let preprocessor = line.hasPrefix("#") && !line.hasPrefix("#pragma")
      let indent = preprocessor ? 0 : max(depth - closesFirst, 0)
      lines.append(String(repeating: "  ", count: indent) + line)
      for character in code {
        if "{([".contains(character) { depth += 1 }
        if "})]".contains(character) { depth -= 1 }
      }
    }
    while lines.last == "" { lines.removeLast() }
    return lines.joined(separator: "\n") + "\n"
  }

  /// The pieces that are not empty, one after another.
  static func lines(_ pieces: String?...) -> String {
    let present = pieces.compactMap { $0 }.filter { !$0.isEmpty && $0 != absent }
    return present.isEmpty ? absent : present.joined(separator: "\n")
  }

  /// The absence of a piece, which leaves no blank line.
  static let absent = "\u{0}"

  static let unrolled = "#pragma clang loop unroll(full)"
}

/// A piece of text that exists on a condition.
func when(_ condition: Bool, _ text: @autoclosure () -> String) -> String { condition ? text() : Text.absent }
