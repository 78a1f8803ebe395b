import AttentionKernels
import Foundation
import MetalAttention

/// A text of Metal, with what a caller must know of it.
package struct NamedText: Sendable {
  /// Made from what the text does: a name stays with its kernel.
  package let name: String
  package let source: String
  package let functions: [String]
  /// What it does, in words.
  package let options: [(option: String, value: String)]
  /// nil for a library of several kernels.
  package let kernel: AttentionKernel?

  /// The files `*.metal.txt` of a folder.
  package static func golden(_ folder: String) throws -> [NamedText] {
    try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".metal.txt") }.sorted().map {
      NamedText(
        name: "golden-\($0.dropLast(".metal.txt".count))",
        source: try String(contentsOfFile: "\(folder)/\($0)", encoding: .utf8), functions: [], options: [], kernel: nil)
    }
  }
}

/// All texts that the driver can hand to Metal's compiler: those of the kernel generator (see `Covering`), and the
/// libraries of quantization and of merges.
package struct TextList: Sendable {
  package enum Extent: Sendable {
    /// Every value of every option of a kind occurs.
    case values
    /// Every pair of values of two options of a kind occurs.
    case pairs
  }

  package struct Refusal: Sendable {
    package let family: String
    package let pair: [String]
    package let reason: String
  }

  package private(set) var texts: [NamedText] = []
  /// Pairs of values of which the generator makes no kernel.
  package private(set) var refused: [Refusal] = []
  /// Values of options that occur in no text.
  package private(set) var missing: [String] = []
  /// Kernels whose text is that of another one.
  package private(set) var repeated = 0

  package init(_ extent: Extent, families: [KernelFamily] = KernelFamily.all) {
    var known: Set<String> = []
    for family in families {
      let covering = Covering(family)
      let kernels = extent == .pairs ? covering.kernels[...] : covering.kernels.prefix(covering.firstWithAllValues)
      refused += covering.refused
      for option in family.options {
        let used = Set(kernels.compactMap { family.options.value(option, in: $0.choice) })
        missing += option.values.indices.filter { !used.contains($0) }
          .map { "\(family.name): \(option.name) \(option.values[$0])" }
      }
      for (choice, kernel) in kernels {
        guard known.insert(kernel.source).inserted else {
          repeated += 1
          continue
        }
        texts.append(
          NamedText(
            name: Self.name(family, choice), source: kernel.source, functions: [kernel.functionName],
            options: family.options.words(choice), kernel: kernel))
      }
    }
    texts += Self.libraries
  }

  /// Texts of several kernels each, which have no options.
  package static let libraries = [
    NamedText(
      name: "quantization", source: QuantizationText.source, functions: QuantizationText.Step.allCases.map(\.rawValue),
      options: [], kernel: nil),
    NamedText(
      name: "merges", source: MergeText.source, functions: MergeText.Step.allCases.map(\.rawValue), options: [],
      kernel: nil),
  ]

  /// Kind, columns and precisions to read, and a hash of all that is not as usual to tell apart.
  private static func name(_ family: KernelFamily, _ choice: KernelChoice) -> String {
    let d = choice.descriptor
    let unusual = family.options.filter { option in (family.options.value(option, in: choice) ?? 0) != 0 }
    var hash: UInt32 = 0x811c_9dc5
    for (option, value) in family.options.words(choice) where unusual.contains(where: { $0.name == option }) {
      for byte in "\(option)=\(value);".utf8 { hash = (hash ^ UInt32(byte)) &* 0x0100_0193 }
    }
    let columns = d.headDimension == d.valueDimension ? "\(d.headDimension)" : "\(d.headDimension)-\(d.valueDimension)"
    let operands = family.options.contains { $0.name == "Q" }
    let words =
      [family.name]
      + (operands ? [columns] + [d.query, d.key, d.value].map { "\($0.precision)" } : [])
    let digits = String(hash, radix: 16)
    return (words + [String(repeating: "0", count: 8 - digits.count) + digits]).joined(separator: "-")
  }
}
