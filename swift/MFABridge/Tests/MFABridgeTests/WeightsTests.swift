import CMFA
import TestSupport
import XCTest

/// Weights sum to 1, whatever the scores, and finite scores stay finite.
final class WeightsTests: GPUTestCase {
  private let integers = Attention.Format.allCases.filter(\.isInteger)

  /// Scores that are drawn by a kind: flat below a peak, spread, spread below a peak, flat.
  private func scores(_ kind: Int, _ keys: Int, _ g: inout Generator) -> [Float] {
    var result = (0..<keys).map { _ in kind == 1 || kind == 2 ? Float.random(in: -4...4, using: &g) : 0 }
    if kind == 0 || kind == 2 { result[Int.random(in: 0..<keys, using: &g)] = .random(in: 5...14, using: &g) }
    return result
  }

  /// A call whose scores are those of a mask, in kinds by row, and whose values are `value`.
  private func call(
    _ session: Session, rows: Int, keys: Int, _ format: Attention.Format, seed: UInt64, value: @escaping (Int) -> Float
  ) throws -> (Attention, [[Float]]) {
    var g = Generator(state: seed)
    let all = (0..<rows).map { scores($0 % 4, keys, &g) }
    let call = try Attention(
      session, heads: 1, rows: rows, keys: keys, value: format, of: { name, row, _ in name == "value" ? value(row) : 0 }
    )
    try call.setMask { all[$0][$1] }
    return (call, all)
  }

  /// The code of 1.
  private func one(_ format: Attention.Format) -> Float {
    format == .int8RowHalf ? 127 * Float(Float16(1 / 127 as Float)) : 1
  }

  /// With V = 1 every output is 1.
  func testSumOfWeights() throws {
    let session = try Session()
    for format in integers + [.fp32, .fp16] {
      var worst: Float = 0
      for (rows, keys) in [(1, 252), (24, 252), (1, 2048), (24, 2048)] {
        let (call, _) = try call(session, rows: rows, keys: keys, format, seed: UInt64(keys), value: { _ in 1 })
        worst = max(worst, call.forward().o.map { abs($0 / one(format) - 1) }.max() ?? .nan)
      }
      print("V = 1, \(format): |O - 1| up to \(worst)")
      XCTAssertLessThanOrEqual(worst, 1e-6, "\(format)")
    }
  }

  /// With V = 1 but at the peak, where it is 0, the output is the mass of the tail.
  func testMassOfTails() throws {
    let session = try Session()
    for format in integers where ![.int8Smooth, .int4Rotated].contains(format) {
      for rows in [1, 24] {
        let (call, _) = try call(session, rows: rows, keys: 1024, format, seed: 3, value: { $0 == 0 ? 0 : 1 })
        try call.setMask { row, key in key == 0 ? Float(4 + row % 12) : 0 }
        let tail = 1023.0
        let errors = call.forward().o.enumerated().map { i, o in
          let expected = Double(one(format)) * tail / (exp(Double(4 + i / 32 % 12)) + tail)
          return abs(Double(o) / expected - 1)
        }
        XCTAssertLessThanOrEqual(errors.max() ?? .nan, 1e-5, "\(format), \(rows) rows")
      }
    }
  }

  /// Only -infinity masks: a row of nothing but the smallest numbers is the mean of the values.
  func testFiniteMasks() throws {
    let session = try Session()
    let least = -Float.greatestFiniteMagnitude
    for (rows, keys) in [(1, 9), (1, 2048), (20, 9), (20, 70)] {
      for format in [Attention.Format.fp32, .int8Row, .int4Groups] {
        let call = try Attention(session, heads: 1, rows: rows, keys: keys, value: format)
        try call.setMask { row, key in row % 2 == 0 ? least : key < 3 ? least : key == 3 ? -.infinity : 0 }
        let whole = call.forward()
        // Without the scores of Q K, which the mask swallows.
        let plain = try Attention(
          session, heads: 1, rows: rows, keys: keys, value: format,
          of: { name, row, column in name == "value" ? call.values[row * 32 + column] : 0 })
        let mean = plain.forward()
        for row in stride(from: 0, to: rows, by: 2) {
          XCTAssertEqual(whole.l[row], least, "\(rows) rows")
          for c in 0..<32 {
            XCTAssertEqual(
              whole.o[32 * row + c], mean.o[32 * row + c], accuracy: 1e-6, "\(rows) rows, \(keys) keys, \(format)")
          }
        }
        for row in stride(from: 1, to: rows, by: 2) { XCTAssertLessThan(abs(whole.l[row]), 20) }
      }
    }
  }

  /// Scores up to the end of FP32 stay finite, whatever base the kernel computes powers in.
  func testFiniteScores() throws {
    let session = try Session()
    for sign: Float in [-1, 1] {
      for rows in [1, 24] {
        let call = try Attention(
          session, heads: 1, rows: rows, keys: 16,
          of: { name, row, column in
            name == "query" ? 0x1p64 : name == "key" ? (column == 0 ? sign * 0x1.fp63 : 0) : Float(row)
          })
        call.options.flags = UInt32(MFA_OPTION_SCALE.rawValue)
        call.options.softmax_scale = 1
        let found = call.forward()
        XCTAssert(found.o.allSatisfy { abs($0 - 7.5) < 1e-5 }, "\(sign), \(rows) rows: \(found.o.prefix(2))")
        XCTAssert(found.l.allSatisfy { $0 == sign * 0x1.fp127 }, "\(found.l.prefix(2))")
      }
    }
  }

  /// A sink of -infinity is none.
  func testInfiniteSinks() throws {
    let session = try Session()
    for rows in [1, 24] {
      for masked in [false, true] {
        let call = try Attention(session, heads: 1, rows: rows, keys: 600)
        if masked { try call.setMask { row, _ in row % 2 == 1 } }
        let without = call.forward()
        call.options.sinks = Session.tensor(try call.buffer([-Float.infinity]), [1, 1, 1, 1])
        let with = call.forward()
        XCTAssertEqual(with.o, without.o)
        XCTAssertEqual(with.l, without.l)
      }
    }
  }
}
