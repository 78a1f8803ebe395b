import AttentionKernels
import Metal
import MetalAttention
import XCTest

@testable import EveryText

/// The list of all texts: nothing that the generator knows is left out of it, and all of it passes the strict front end
/// of the software device, or Apple's compiler on a Mac.
final class EveryTextTests: XCTestCase {
  private static let values = TextList(.values), pairs = TextList(.pairs)

  /// Every value of every option of every kind, also in the short list.
  func testEveryValueOccurs() {
    XCTAssertEqual(Self.values.missing, [])
    XCTAssertEqual(Self.pairs.missing, [])
  }

  /// Whatever can differ between two descriptors does, also what somebody adds without telling the list.
  func testEveryPropertyOfTheDescriptorVaries() {
    var found: [String: Set<String>] = [:]
    func collect(_ value: Any, _ path: String) {
      let mirror = Mirror(reflecting: value)
      // Of no quantization there is nothing to collect.
      if mirror.displayStyle == .optional {
        if let some = mirror.children.first { collect(some.value, path) }
        return
      }
      if mirror.displayStyle != .struct {
        found[path, default: []].insert("\(value)")
        return
      }
      for child in mirror.children { collect(child.value, "\(path).\(child.label ?? "?")") }
    }
    for text in Self.values.texts { if let kernel = text.kernel { collect(kernel.descriptor, "descriptor") } }
    XCTAssertGreaterThan(found.count, 30)
    XCTAssertNotNil(found["descriptor.value.quantization.granularity"])
    for (path, values) in found { XCTAssertGreaterThan(values.count, 1, "\(path) is always \(values)") }
  }

  /// The enumerators of the generator, whichever list the options have.
  func testEveryEnumeratorOccurs() {
    let descriptors = Self.values.texts.compactMap { $0.kernel?.descriptor }
    func expect<Value: Hashable>(_ all: [Value], _ what: String, _ found: (AttentionKernelDescriptor) -> [Value]) {
      let missing = Set(all).subtracting(descriptors.flatMap(found))
      XCTAssertTrue(missing.isEmpty, "\(what): \(missing) in no text")
    }
    expect(AttentionKernelDescriptor.Kind.allCases, "kind") { [$0.kind] }
    expect(AttentionKernelDescriptor.Schedule.allCases, "schedule") { $0.kind == .forward ? [$0.schedule] : [] }
    expect(AttentionKernelDescriptor.Mask.allCases, "mask") { [$0.mask] }
    expect(Binding.Role.allCases, "binding") { $0.bindings.map(\.role) }
    let masks = AttentionKernelDescriptor.Mask.allCases.filter { $0 != .BOOL && $0 != .none }
    expect(masks, "mask with a gradient") { $0.kind == .backwardMask ? [$0.mask] : [] }
    let floats = GEMMOperandPrecision.allCases.filter { !$0.isInteger }
    for kind in AttentionKernelDescriptor.Kind.allCases
    where kind != .forwardMerge && kind != .backwardSinks {
      for name in AttentionOperand.quantizable {
        func layouts<Value>(_ value: @escaping (QuantizationLayout) -> Value) -> (AttentionKernelDescriptor) -> [Value]
        {
          { $0.kind == kind ? [$0.operand(name).quantization].compactMap { $0 }.map(value) : [] }
        }
        expect(GEMMOperandPrecision.allCases, "\(kind): \(name)") { $0.kind == kind ? [$0.precision(name)] : [] }
        expect(AttentionKernelDescriptor.Access.allCases, "\(kind): access of \(name)") {
          $0.kind == kind ? [$0.operand(name).access] : []
        }
        expect(QuantizationLayout.Granularity.allCases, "\(kind): granularity of \(name)", layouts(\.granularity))
        expect(QuantizationLayout.ScaleStorage.allCases, "\(kind): scales of \(name)", layouts(\.scaleStorage))
        expect(QuantizationLayout.ZeroPoints.allCases, "\(kind): zero points of \(name)", layouts(\.zeroPoints))
      }
    }
    for kind in [AttentionKernelDescriptor.Kind.forward, .forwardMerge] {
      expect(floats, "\(kind): O") { $0.kind == kind ? [$0.precision(.O)] : [] }
    }
    for kind in [AttentionKernelDescriptor.Kind.backwardQuery, .backwardKeyValue, .backwardMask] {
      expect(floats, "\(kind): dO") { $0.kind == kind ? [$0.precision(.dO)] : [] }
    }
    expect(AttentionKernelDescriptor.Gradients.DSource.allCases, "source of D") {
      $0.kind == .backwardQuery ? [$0.gradients.dSource] : []
    }
  }

  /// Counted from what the texts say of themselves: every pair of values of two options of a kind, but for those that
  /// the generator refuses and those that mean nothing together.
  func testEveryPairOccurs() {
    let list = Self.pairs
    for family in KernelFamily.all {
      var found: Set<[String]> = []
      for text in list.texts where text.name.hasPrefix("\(family.name)-") {
        let words = text.options.map { "\($0.option) \($0.value)" }
        for a in words { for b in words { found.insert([a, b]) } }
      }
      let refused = Set(list.refused.filter { $0.family == family.name }.map(\.pair))
      var absent = 0
      for (i, option) in family.options.enumerated() {
        for other in family.options[(i + 1)...] {
          for a in option.values {
            for b in other.values {
              let pair = ["\(option.name) \(a)", "\(other.name) \(b)"]
              if found.contains(pair) || refused.contains(pair) { continue }
              absent += 1
              XCTAssertTrue(
                Self.excludeEachOther(option.name, other.name), "\(family.name): \(pair[0]) with \(pair[1]) in no text")
            }
          }
        }
      }
      print("\(family.name): \(found.count) pairs of values, \(refused.count) refused, \(absent) excluded")
    }
    for refusal in list.refused {
      XCTAssertTrue(refusal.reason.contains("threadgroup memory"), "\(refusal)")
      XCTAssertTrue(
        refusal.pair.contains { $0.hasPrefix("columns [1024") || $0.hasPrefix("columns [640") }, "\(refusal)")
    }
  }

  /// Two options of one operand (its precision, or its granularity, may leave no meaning to the other), or one of which
  /// the other is a part.
  private static func excludeEachOther(_ a: String, _ b: String) -> Bool {
    let words = [a, b].map { $0.split(separator: " ") }
    if words[0][0] == words[1][0], ["Q", "K", "V"].contains(words[0][0]) { return true }
    let parts: [[String]] = [
      ["ALiBi", "slopes"], ["has sinks", "sinks"], ["dK", "dV"], ["dQ", "D from"], ["dQ", "writes D"],
      ["D from", "writes D"], ["D from", "O"], ["D from", "O access"],
    ]
    return parts.contains([a, b])
  }

  func testNames() {
    let names = Self.pairs.texts.map(\.name)
    XCTAssertEqual(Set(names).count, names.count)
    XCTAssertEqual(Set(Self.pairs.texts.map(\.source)).count, names.count)
    XCTAssertTrue(Set(Self.values.texts.map(\.name)).isSubset(of: names))
    // A name is made from what the text does, and stays.
    XCTAssertTrue(names.contains("backwardSinks-811c9dc5"), "\(names.filter { $0.hasPrefix("backwardSinks") })")
    print("\(names.count) texts; every value alone: \(Self.values.texts.count)")
  }

  /// With EVERY_TEXT=pairs all texts, otherwise those of every value.
  func testDeviceCompilesEveryText() throws {
    let all = ProcessInfo.processInfo.environment["EVERY_TEXT"] == "pairs"
    let texts = (all ? Self.pairs : Self.values).texts
    let failures = CompiledTexts.failures(texts, on: try XCTUnwrap(MTLCreateSystemDefaultDevice()))
    for failure in failures { XCTFail("\(failure.name): \(failure.reason)") }
    print("compiled \(texts.count) texts")
  }

  /// What is refused is reported by its name.
  func testRefusedTextsAreReported() throws {
    let good = try XCTUnwrap(TextList.libraries.last)
    let bad = NamedText(
      name: "bad", source: good.source + "\nkernel void more(device half *a) { float2 b = a[0].xy; }\n",
      functions: good.functions, options: [], kernel: nil)
    let lacking = NamedText(name: "lacking", source: good.source, functions: ["none"], options: [], kernel: nil)
    let failures = CompiledTexts.failures([good, lacking, bad], on: try XCTUnwrap(MTLCreateSystemDefaultDevice()))
    XCTAssertEqual(failures.map(\.name), ["bad", "lacking"])
    XCTAssertTrue(failures[1].reason.contains("'none'"), failures[1].reason)
  }
}
