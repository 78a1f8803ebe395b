import CMFA
import TestSupport
import XCTest

/// Key lengths per sequence, rows after the last packed sequence, sinks and slopes of 16 bits, the gradient of
/// logsumexp.
final class SequencesTests: GPUTestCase {
  private func compare(_ found: [Float], _ expected: [Float], _ what: String, line: UInt = #line) {
    XCTAssertEqual(found.count, expected.count, what, line: line)
    let top = expected.lazy.filter(\.isFinite).map(abs).max() ?? 0
    for (f, e) in zip(found, expected) where !(f == e || abs(f - e) <= 4e-6 * top + 1e-6) {
      return XCTFail("\(what): \(f), expected \(e)", line: line)
    }
  }

  private func compare(_ call: Attention, _ other: Attention, _ what: String, line: UInt = #line) throws {
    let (found, expected) = (call.forward(line: line), other.forward(line: line))
    compare(found.o, expected.o, "O: \(what)", line: line)
    compare(found.l, expected.l, "L: \(what)", line: line)
    let (gradients, wanted) = (try call.backward(line: line), try other.backward(line: line))
    for (name, (f, e)) in zip(["dQ", "dK", "dV"], zip(gradients.all, wanted.all)) {
      compare(f, e, "\(name): \(what)", line: line)
    }
    compare(gradients.d, wanted.d, "D: \(what)", line: line)
  }

  /// Lengths have the effect of a mask of the other keys, with the diagonal at each sequence's own end.
  func testKeyLengths() throws {
    let session = try Session()
    let lengths: [Int32] = [5, 0, 40, 17]
    for rows in [1, 2, 21] {
      for format in [Attention.Format.fp16, .int8Row, .int4Groups] {
        for causal in [false, true] {
          func call() throws -> Attention {
            try Attention(session, batch: 4, rows: rows, keys: 40, key: format, value: format)
          }
          let (call, masked) = (try call(), try call())
          call.options.seqlens_k = try call.buffer([-7] + lengths)
          call.options.seqlens_k_offset = 4
          if causal {
            call.options.flags = UInt32(MFA_OPTION_CAUSAL.rawValue | MFA_OPTION_WINDOW.rawValue)
            (call.options.alignment, call.options.window_left, call.options.window_right) = (1, 9, -1)
          }
          try masked.setBatchMask { batch, row, key in
            let position = row + Int(lengths[batch]) - rows
            return key < lengths[batch] && (!causal || key <= position && key >= position - 9)
          }
          let name = "\(format), \(rows) rows, causal \(causal)"
          try compare(call, masked, name)
          // What is stored behind a sequence's keys is not read.
          for operand in [call.key, call.value] where !operand.format.isInteger {
            let bytes = session.bytes(operand.data)
            for batch in 0..<4 {
              for i in (batch * 40 + Int(lengths[batch])) * 64..<(batch + 1) * 40 * 64 { bytes[i] = 0xFF }
            }
          }
          try compare(call, masked, "NaN, \(name)")
        }
      }
    }
  }

  /// Packed sequences with spare rows behind them, and fewer keys than are stored: each is as it is alone.
  func testPackedLengths() throws {
    let session = try Session()
    for shared in [false, true] {
      let call = try Attention(session, heads: 2, rows: 14, keys: 30)
      try call.setPacked([(3, 9), (0, 4), (6, 12)])
      call.options.seqlens_k = try call.buffer([7, 4, 10] as [Int32])
      call.options.flags = UInt32(MFA_OPTION_CAUSAL.rawValue)
      call.options.alignment = 1
      if shared {
        call.options.sinks = Session.tensor(try call.buffer([0.5, -1] as [Float]), [1, 2, 1, 1])
        call.options.alibi_slopes = Session.tensor(
          try call.buffer([0.1, 0.2, 0.3, 0.4, 0.5, 0.6] as [Float]), [3, 2, 1, 1])
      }
      let masked = try Attention(session, heads: 2, rows: 14, keys: 30)
      let sequences = [(q: 0..<3, k: 0..<7), (q: 3..<9, k: 13..<23)]
      func place(_ row: Int, _ key: Int) -> (sequence: Int, distance: Int)? {
        for (index, sequence) in sequences.enumerated() where sequence.q.contains(row) && sequence.k.contains(key) {
          let distance =
            row - sequence.q.lowerBound + sequence.k.count - sequence.q.count - (key - sequence.k.lowerBound)
          return distance >= 0 ? (index * 2, distance) : nil
        }
        return nil
      }
      masked.options.sinks = call.options.sinks
      var bias = [Float]()
      for head in 0..<2 {
        for row in 0..<14 {
          for key in 0..<30 {
            guard let (sequence, distance) = place(row, key) else { bias.append(-.infinity); continue }
            bias.append(shared ? -0.1 * Float(2 * sequence + head + 1) * Float(distance) : 0)
          }
        }
      }
      masked.options.mask = Session.tensor(try call.buffer(bias), [1, 2, 14, 30])
      try compare(call, masked, "shared \(shared)")
      let rest = call.floats(call.output)[(9 * 32)..<(14 * 32)]
      XCTAssert(rest.allSatisfy { $0 == 0 })
    }
  }

  func testRefusals() throws {
    let session = try Session()
    func refused(_ status: Int32, _ word: String, line: UInt = #line, _ edit: (Attention) throws -> Void) throws {
      let call = try Attention(session, batch: 1, rows: 3, keys: 5)
      try edit(call)
      XCTAssertEqual(call.forwardStatus, status, Session.message, line: line)
      XCTAssert(Session.message.contains(word), Session.message, line: line)
    }
    try refused(5, "seqlens_k: sequence 0 has 6; expected 0 to 5, its rows of key") {
      $0.options.seqlens_k = try $0.buffer([6] as [Int32])
    }
    try refused(5, "seqlens_k: sequence 0 has -1; expected 0 to 5") {
      $0.options.seqlens_k = try $0.buffer([-1] as [Int32])
    }
    try refused(5, "seqlens_k: 4 bytes at byte 4 are needed; the buffer has 4") {
      ($0.options.seqlens_k, $0.options.seqlens_k_offset) = (try $0.buffer([1] as [Int32]), 4)
    }
    try refused(5, "seqlens_k: an offset of 4 without a buffer; expected both or neither") {
      $0.options.seqlens_k_offset = 4
    }
    try refused(5, "seqlens_k: sequence 1 has 3; expected 0 to 2, its rows of key") {
      try $0.setPacked([(1, 3), (1, 2)])
      $0.options.seqlens_k = try $0.buffer([3, 3] as [Int32])
    }
    try refused(5, "cu_seqlens_q: ends with 4; expected at most 3, the rows") { try $0.setPacked([(4, 5)]) }
    try refused(6, "query: FP64 is not computed on this device") { $0.query.tensor.precision = 64 }
    try refused(6, "sinks: FP64 is not computed on this device") {
      $0.options.sinks = Session.tensor($0.query.data, [1, 4, 1, 1])
      $0.options.sinks.precision = 64
    }
  }

  /// Sinks and slopes are what their numbers are, however stored.
  func testPrecisionsOfSinksAndSlopes() throws {
    let session = try Session()
    let numbers: [Float] = [0.5, -1.25, 2, 0.0625]
    for rows in [1, 9] {
      for precision: Int32 in [1, 2] {
        func stored(_ call: Attention, _ precision: Int32) throws -> mfa_tensor {
          let buffer =
            switch precision {
            case 1: try call.buffer(numbers.map { Float16($0) })
            case 2: try call.buffer(numbers.map { UInt16($0.bitPattern >> 16) })
            default: try call.buffer(numbers)
            }
          var tensor = Session.tensor(buffer, [1, 4, 1, 1])
          tensor.precision = precision
          return tensor
        }
        func made(_ precision: Int32) throws -> Attention {
          let call = try Attention(session, rows: rows, keys: 20)
          (call.options.sinks, call.options.alibi_slopes) = (try stored(call, precision), try stored(call, precision))
          return call
        }
        let (call, single) = (try made(precision), try made(0))
        try compare(call, single, "precision \(precision), \(rows) rows")
        XCTAssertEqual(try call.backward().sinks, try single.backward().sinks)
      }
    }
  }

  /// dL enters the gradients as a D that is smaller by it; D itself is without it.
  func testGradientOfLogsumexp() throws {
    let session = try Session()
    for (columns, mask) in [(32, false), (32, true), (288, false)] {
      let call = try Attention(session, heads: 2, rows: 11, keys: 19, columns: columns, valueColumns: columns)
      if mask { try call.setMask { row, key in row == 4 || key == 3 ? -.infinity : Float(row - key) / 8 } }
      call.options.sinks = Session.tensor(try call.buffer([0.5, -1] as [Float]), [1, 2, 1, 1])
      _ = call.forward()
      let dL = (0..<22).map { Float($0 % 7) / 4 - 0.6 }
      let without = try call.backward()
      let less = try call.backward(dGiven: zip(without.d, dL).map { $0 - $1 })
      for withOutput in [false, true] {
        let with = try call.backward(gradLogsumexp: dL, withOutput: withOutput)
        compare(with.d, without.d, "D, \(columns) columns")
        for (name, (f, e)) in zip(["dQ", "dK", "dV", "dmask"], zip(with.all, less.all)) {
          compare(f, e, "\(name), \(columns) columns, O \(withOutput)")
        }
        compare(with.sinks, less.sinks, "dsinks, \(columns) columns")
        XCTAssertNotEqual(with.query, without.query)
      }
      let given = try call.backward(gradLogsumexp: dL, dGiven: without.d)
      compare(given.query, less.query, "dQ, D given")
    }
  }
}
