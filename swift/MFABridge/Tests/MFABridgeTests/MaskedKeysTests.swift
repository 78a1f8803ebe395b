import CMFA
import TestSupport
import XCTest

/// Nothing stored with a masked key reaches a result: its numbers or codes, its scale, its zero point, whatever they
/// are.
final class MaskedKeysTests: GPUTestCase {
  private enum Masking: CaseIterable { case booleans, infinities, causal, window, packed, broadcast }
  /// Keys from here on are masked; they fill blocks of rows.
  private let first = 8
  private let keys = 12

  private func mask(_ call: Attention, _ how: Masking) throws {
    switch how {
    case .booleans: try call.setMask { _, key in key < first }
    case .infinities: try call.setMask { row, key in key < first ? Float(row - key) / 8 : -.infinity }
    case .causal: call.options.flags = UInt32(MFA_OPTION_CAUSAL.rawValue)
    case .window:
      call.options.flags = UInt32(MFA_OPTION_WINDOW.rawValue)
      (call.options.window_left, call.options.window_right) = (-1, 2)
    case .packed: try call.setPacked([(Int32(call.rows), Int32(first)), (0, Int32(keys - first))])
    case .broadcast:
      // One row of a mask for all.
      call.options.mask = Session.tensor(
        try call.buffer((0..<keys).map { UInt8($0 < first ? 1 : 0) }), [1, 1, 1, UInt64(keys)])
      call.options.mask.precision = 16
    }
  }

  /// Ways to spoil the rows from `first` on, each with a name.
  private func spoilers(_ operand: Attention.Operand, _ session: Session) -> [(String, () -> Void)] {
    let columns = operand.shape[3]
    guard operand.format.isInteger else {
      let bits: Int = operand.format == .fp32 ? 4 : 2
      return [
        (
          "NaN",
          {
            session.bytes(operand.data)[(bits * columns * self.first)...].indices.forEach {
              session.bytes(operand.data)[$0] = 0xFF
            }
          }
        )
      ]
    }
    var result: [(String, () -> Void)] = [
      (
        "codes",
        {
          let bytes = session.bytes(operand.data),
            start = columns * (operand.format.precision == 4 ? 1 : 2) * self.first / 2
          for i in start..<bytes.count { bytes[i] = bytes[i] &* 37 &+ 91 }
        }
      )
    ]
    // A tensor-wise scale belongs to no masked key.
    guard operand.format != .int8Tensor, let scales = operand.scales else { return result }
    let perRow = operand.format.granularity == 3 ? columns : 1
    let firstScale = perRow * (operand.format.granularity >= 2 ? first / Attention.blockRows : first)
    for (name, value) in [
      ("NaN scale", Float.nan), ("infinite scale", .infinity), ("zero scale", 0), ("huge scale", -3e38),
    ] {
      result.append(
        (
          name,
          {
            let bytes = session.bytes(scales)
            if operand.format == .int8RowHalf {
              for i in firstScale..<bytes.count / 2 {
                bytes.storeBytes(of: Float16(value), toByteOffset: 2 * i, as: Float16.self)
              }
            } else {
              for i in firstScale..<bytes.count / 4 { bytes.storeBytes(of: value, toByteOffset: 4 * i, as: Float.self) }
            }
          }
        ))
    }
    if let zeroPoints = operand.zeroPoints {
      result.append(("zero point", { for i in self.first..<self.keys { session.bytes(zeroPoints)[i] = 0x80 } }))
    }
    return result
  }

  /// Spoils keys and values of a format in every way, masked in every way.
  private func check(_ format: Attention.Format) throws {
    let session = try Session()
    for rows in [1, 6] {
      for how in Masking.allCases {
        let call = try Attention(session, rows: rows, keys: keys, key: format, value: format)
        try mask(call, how)
        let clean = call.forward(), gradients = try call.backward()
        XCTAssert(([clean.o, clean.l] + gradients.all).joined().allSatisfy(\.isFinite))
        for (name, operand) in [("key", call.key), ("value", call.value)] {
          let kept = [operand.data, operand.scales, operand.zeroPoints].compactMap { $0 }.map {
            ($0, Array(session.bytes($0)))
          }
          for (what, spoil) in spoilers(operand, session) {
            spoil()
            let found = call.forward(), now = try call.backward()
            let results = [(found.o, clean.o), (found.l, clean.l)] + zip(now.all, gradients.all)
            for (result, (found, clean)) in zip(["O", "L", "dQ", "dK", "dV", "dmask"], results) {
              XCTAssert(found == clean, "\(result): \(name) \(format), \(rows) rows, \(how), \(what)")
            }
            for (buffer, bytes) in kept { session.bytes(buffer).copyBytes(from: bytes) }
          }
        }
      }
    }
  }

  func testFloats() throws { for format in [Attention.Format.fp16, .bf16] { try check(format) } }
  func testRows() throws {
    for format in [Attention.Format.int8Row, .int8RowHalf, .int8Asymmetric, .int8Block] { try check(format) }
  }
  func testGroupsAndChannels() throws {
    for format in [Attention.Format.int4Groups, .int4Channel] { try check(format) }
  }
  func testRotationAndMeans() throws {
    for format in [Attention.Format.int4Rotated, .int8Smooth] { try check(format) }
  }

  /// A query for which a key is masked adds nothing to that key's gradients, whatever is stored with it.
  func testQueriesThatDoNotSeeAKey() throws {
    let session = try Session()
    for format in [Attention.Format.fp32, .fp16, .int8Row, .int8RowHalf, .int4Groups] {
      let call = try Attention(session, heads: 1, rows: 12, keys: 12, query: format)
      // The last four rows attend to the last four keys, the others to the others.
      try call.setMask { row, key in (row < first) == (key < first) }
      _ = call.forward()
      let clean = try call.backward()
      for (what, spoil) in spoilers(call.query, session) {
        spoil()
        let found = try call.backward()
        XCTAssertEqual(
          Array(found.key[..<(first * 32)]), Array(clean.key[..<(first * 32)]), "dK: query \(format), \(what)")
        XCTAssertEqual(
          Array(found.value[..<(first * 32)]), Array(clean.value[..<(first * 32)]), "dV: query \(format), \(what)")
        XCTAssertEqual(
          Array(found.query[..<(first * 32)]), Array(clean.query[..<(first * 32)]), "dQ: query \(format), \(what)")
      }
    }
  }
}
