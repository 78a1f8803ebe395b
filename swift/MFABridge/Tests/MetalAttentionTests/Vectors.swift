import Foundation
import XCTest

/// A case of tests/conformance/vectors: the grammar is at the top of its manifest.txt.
struct VectorCase {
  struct Buffer {
    let isRoom: Bool
    let offset: Int
    let size: Int
  }

  struct Quantization {
    var granularity: Int32 = 0
    var blockRows = 0
    var groupSize = 0
    var scale: Float = 0
    var zeroPoint: Int32 = 0
    var scaleBuffer = -1
    var scaleOffset = 0
    var scalePrecision: Int32 = 0
    var rotated: UInt32 = 0
    var zeroPointBuffer = -1
    var zeroPointOffset = 0
    var zeroPointBytes = 0
    var scaleStrides = [0, 0, 0, 0]
    var meanBuffer = -1
    var meanOffset = 0
  }

  struct Tensor {
    let buffer: Int
    let byteOffset: UInt64
    let precision: Int32
    let shape: [UInt64]
    let strides: [Int64]
    var quantization: Quantization?
  }

  struct Options {
    var flags: UInt32 = 0
    var scale: Float = 0
    var softcap: Float = 0
    var alignment: Int32 = 0
    var compute: Int32 = 0
    var windowLeft: Int64 = 0
    var windowRight: Int64 = 0
  }

  struct Varlen {
    let count: UInt32
    let q: Int
    let qOffset: UInt64
    let k: Int
    let kOffset: UInt64
  }

  enum Expectation {
    case values(role: String, offset: Int, max: Double, rms: Double)
    case bytes(buffer: Int, offset: Int)
    case report([Double])
  }

  let name: String
  let call: String
  let status: Int32
  let bytes: Data
  var buffers: [Buffer] = []
  var tensors: [String: Tensor] = [:]
  var options = Options()
  var varlen: Varlen?
  var flags: UInt32 = 0
  var expectations: [Expectation] = []
}

/// Reads the manifests and the arrays.
enum Vectors {
  static let folder = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("tests/conformance/vectors")

  /// Cases whose names contain the text in MFA_ONLY; all without it.
  static func read() throws -> [VectorCase] {
    let only = ProcessInfo.processInfo.environment["MFA_ONLY"] ?? ""
    var cases: [VectorCase] = []
    for words in try lines("manifest.txt") {
      if words[0] == "mfa-vectors" {
        XCTAssertEqual(words[1], "2", "this runner reads version 2")
      } else {
        XCTAssertEqual(words[0], "family")
        cases += try readFamily(words[1])
      }
    }
    return only.isEmpty ? cases : cases.filter { $0.name.contains(only) }
  }

  /// The words of the lines of a file that are no comments.
  private static func lines(_ name: String) throws -> [[String]] {
    let text = try String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
    return text.split(separator: "\n").filter { !$0.hasPrefix("#") }.map { $0.split(separator: " ").map(String.init) }
  }

  private static func readFamily(_ name: String) throws -> [VectorCase] {
    var files: [String: Data] = [:]
    var cases: [VectorCase] = []
    var current: VectorCase?
    for words in try lines("\(name).txt") {
      if words[0] == "case" {
        let file = words[4]
        if files[file] == nil { files[file] = try Data(contentsOf: folder.appendingPathComponent(file)) }
        let (base, size) = (try number(words[5]), try number(words[6]))
        let bytes = try XCTUnwrap(files[file])
        current = VectorCase(
          name: words[1], call: words[2], status: Int32(try number(words[3])), bytes: Data(bytes[base..<base + size]))
      } else if words[0] == "end" {
        cases.append(try XCTUnwrap(current))
        current = nil
      } else {
        var open = try XCTUnwrap(current)
        try item(words, &open)
        current = open
      }
    }
    return cases
  }

  private static func number(_ word: String) throws -> Int { try XCTUnwrap(Int(word), word) }
  private static func integer<N: FixedWidthInteger>(_ word: String) throws -> N { try XCTUnwrap(N(word), word) }
  private static func real(_ word: String) throws -> Double { try XCTUnwrap(Double(word), word) }

  private static func item(_ words: [String], _ c: inout VectorCase) throws {
    switch words[0] {
    case "data": c.buffers.append(.init(isRoom: false, offset: try number(words[2]), size: try number(words[3])))
    case "room": c.buffers.append(.init(isRoom: true, offset: 0, size: try number(words[2])))
    case "tensor":
      c.tensors[words[1]] = .init(
        buffer: try number(words[2]), byteOffset: try integer(words[3]), precision: try integer(words[4]),
        shape: try words[5..<9].map { try integer($0) }, strides: try words[9..<13].map { try integer($0) })
    case "quantization":
      var q = VectorCase.Quantization()
      q.granularity = try integer(words[2])
      q.blockRows = try number(words[3])
      q.groupSize = try number(words[4])
      q.scale = Float(try real(words[5]))
      q.zeroPoint = try integer(words[6])
      q.scaleBuffer = try number(words[7])
      q.scaleOffset = try number(words[8])
      q.scalePrecision = try integer(words[9])
      q.rotated = try integer(words[10])
      q.zeroPointBuffer = try number(words[11])
      q.zeroPointOffset = try number(words[12])
      q.zeroPointBytes = try number(words[13])
      q.scaleStrides = try words[14..<18].map(number)
      q.meanBuffer = try number(words[18])
      q.meanOffset = try number(words[19])
      c.tensors[words[1]]?.quantization = q
    case "options":
      c.options = .init(
        flags: try integer(words[1]), scale: Float(try real(words[2])), softcap: Float(try real(words[3])),
        alignment: try integer(words[4]), compute: try integer(words[5]), windowLeft: try integer(words[6]),
        windowRight: try integer(words[7]))
    case "varlen":
      c.varlen = .init(
        count: try integer(words[1]), q: try number(words[2]), qOffset: try integer(words[3]), k: try number(words[4]),
        kOffset: try integer(words[5]))
    case "flags": c.flags = try integer(words[1])
    case "expect":
      c.expectations.append(
        .values(role: words[1], offset: try number(words[2]), max: try real(words[3]), rms: try real(words[4])))
    case "same": c.expectations.append(.bytes(buffer: try number(words[1]), offset: try number(words[2])))
    case "error": c.expectations.append(.report(try words[1..<5].map(real)))
    default: XCTFail("unknown item \(words[0]) in case \(c.name)")
    }
  }
}
