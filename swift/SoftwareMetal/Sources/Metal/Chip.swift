/// The Apple chip whose GPU the software device is named after: programs read its name, family and architecture.
struct Chip: Sendable {
  /// As Apple writes it: "M1", "M2 Max".
  let name: String

  /// Chips by the newest family that they support.
  private static let generations: [(number: Int, family: MTLGPUFamily, architecture: Int)] = [
    (1, .apple7, 13), (2, .apple8, 14), (3, .apple9, 15), (4, .apple9, 16), (5, .apple10, 17),
  ]
  private static let variants = ["": "g", "Pro": "s", "Max": "c", "Ultra": "d"]

  /// The first chip of a family.
  init(family: MTLGPUFamily) {
    let known = Self.generations.first { $0.family.rawValue >= family.rawValue } ?? Self.generations[4]
    name = "M\(known.number)"
  }
  /// Nil for a name that no chip has.
  init?(name: String) {
    let words = name.split(separator: " ").map(String.init)
    guard let first = words.first, first.hasPrefix("M"), let number = Int(first.dropFirst()),
      Self.generations.contains(where: { $0.number == number }), words.count <= 2,
      Self.variants[words.count == 2 ? words[1] : ""] != nil
    else { return nil }
    self.name = words.joined(separator: " ")
  }

  private var generation: (number: Int, family: MTLGPUFamily, architecture: Int) {
    let number = Int(name.split(separator: " ")[0].dropFirst()) ?? 1
    return Self.generations.first { $0.number == number } ?? Self.generations[0]
  }
  var family: MTLGPUFamily { generation.family }
  /// The name of the GPU's architecture, whose last letter tells its size.
  var architecture: String {
    let words = name.split(separator: " ")
    let letter = Self.variants[words.count == 2 ? String(words[1]) : ""] ?? "g"
    return "applegpu_g\(generation.architecture)\(letter)"
  }
}
