import CMFA
import TestSupport
import XCTest

/// Merging parts by their logsumexp, and its gradient, against the formulas in float64.
final class MergeTests: GPUTestCase {
  private let shape: [UInt64] = [2, 3, 5, 40]
  private let rows = 30, columns = 40

  private struct Part {
    var o: [Float], l: [Float]
  }

  private func parts(_ count: Int) -> [Part] {
    var g = Generator(state: 5)
    return (0..<count).map { index in
      var part = Part(
        o: (0..<rows * columns).map { _ in Float.random(in: -2...2, using: &g) },
        l: (0..<rows).map { _ in Float.random(in: -3...3, using: &g) + (index == 1 ? 80 : 0) })
      // A part that saw no key holds anything; a row of which no part saw any; a row of large logsumexps.
      for row in [3, 4] where index == 0 || row == 4 {
        part.l[row] = -.infinity
        for c in 0..<columns { part.o[row * columns + c] = .nan }
      }
      part.l[7] = -3e38 + Float(index)
      return part
    }
  }

  private func weights(_ parts: [Part], _ row: Int) -> (w: [Double], l: Double) {
    let l = parts.map { Double($0.l[row]) }, top = l.max() ?? 0
    if top == -.infinity { return (l.map { _ in 0 }, top) }
    let sum = l.reduce(0) { $0 + exp($1 - top) }
    return (l.map { exp($0 - top) / sum }, top + log(sum))
  }

  private func tensors(_ session: Session, _ parts: [Part]) throws -> (o: [mfa_tensor], l: [mfa_tensor]) {
    func stored(_ numbers: [Float], _ shape: [UInt64]) throws -> mfa_tensor {
      let tensor = try session.tensor(shape)
      numbers.withUnsafeBytes { session.bytes(tensor.buffer!).copyBytes(from: $0) }
      return tensor
    }
    return (try parts.map { try stored($0.o, shape) }, try parts.map { try stored($0.l, [2, 3, 5, 1]) })
  }

  private func floats(_ session: Session, _ tensor: mfa_tensor) -> [Float] {
    Array(session.bytes(tensor.buffer!).bindMemory(to: Float.self))
  }

  private func merge(
    _ session: Session, _ o: [mfa_tensor], _ l: [mfa_tensor], _ output: mfa_tensor, _ logsumexp: mfa_tensor
  ) -> Int32 {
    var desc = mfa_merge_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_merge_desc>.size)
    (desc.count, desc.output, desc.logsumexp) = (UInt32(o.count), output, logsumexp)
    return o.withUnsafeBufferPointer { o in
      l.withUnsafeBufferPointer { l in
        (desc.outputs, desc.logsumexps) = (o.baseAddress, l.baseAddress)
        return withUnsafePointer(to: desc) { mfa_merge(session.context, $0) }
      }
    }
  }

  func testMerge() throws {
    let session = try Session()
    for count in [1, 2, 5] {
      for inPlace in [false, true] {
        let all = parts(count)
        let (o, l) = try tensors(session, all)
        let (output, sums) =
          inPlace ? (o[0], l[count - 1]) : (try session.tensor(shape), try session.tensor([2, 3, 5, 1]))
        XCTAssertEqual(merge(session, o, l, output, sums), 0, Session.message)
        let (found, logsumexps) = (floats(session, output), floats(session, sums))
        for row in 0..<rows {
          let (w, total) = weights(all, row)
          XCTAssert(
            Double(logsumexps[row]) == total || abs(Double(logsumexps[row]) - total) <= 1e-6 * max(abs(total), 1),
            "row \(row): \(logsumexps[row]), expected \(total)")
          for c in 0..<columns {
            let expected = zip(w, all).reduce(0) { $1.0 == 0 ? $0 : $0 + $1.0 * Double($1.1.o[row * columns + c]) }
            XCTAssertEqual(
              Double(found[row * columns + c]), expected, accuracy: 2e-6, "row \(row), column \(c) of \(count) parts")
          }
        }
      }
    }
  }

  func testGradients() throws {
    let session = try Session()
    let all = parts(3)
    let (o, l) = try tensors(session, all)
    var g = Generator(state: 9)
    let dO = (0..<rows * columns).map { _ in Float.random(in: -1...1, using: &g) },
      dL = (0..<rows).map { _ in Float.random(in: -1...1, using: &g) }
    let (ofO, ofL) = try tensors(session, [Part(o: dO, l: dL)])
    let gradOutputs = try [session.tensor(shape), mfa_tensor(), session.tensor(shape)]
    let gradLogsumexps = try (0..<3).map { _ in try session.tensor([2, 3, 5, 1]) }
    for givesL in [true, false] {
      var desc = mfa_merge_backward_desc()
      desc.struct_size = UInt32(MemoryLayout<mfa_merge_backward_desc>.size)
      (desc.count, desc.grad_output) = (3, ofO[0])
      if givesL { desc.grad_logsumexp = ofL[0] }
      let status = o.withUnsafeBufferPointer { o in
        l.withUnsafeBufferPointer { l in
          gradOutputs.withUnsafeBufferPointer { gradOutputs in
            gradLogsumexps.withUnsafeBufferPointer { gradLogsumexps in
              (desc.outputs, desc.logsumexps) = (o.baseAddress, l.baseAddress)
              (desc.grad_outputs, desc.grad_logsumexps) = (gradOutputs.baseAddress, gradLogsumexps.baseAddress)
              return withUnsafePointer(to: desc) { mfa_merge_backward(session.context, $0) }
            }
          }
        }
      }
      XCTAssertEqual(status, 0, Session.message)
      for row in 0..<rows {
        let (w, _) = weights(all, row)
        let met = all.enumerated().map { index, part in
          w[index] == 0
            ? 0 : (0..<columns).reduce(0.0) { $0 + Double(dO[row * columns + $1]) * Double(part.o[row * columns + $1]) }
        }
        let whole = zip(w, met).reduce(0) { $0 + $1.0 * $1.1 }
        for index in 0..<3 {
          let expected = w[index] == 0 ? 0 : w[index] * ((givesL ? Double(dL[row]) : 0) + met[index] - whole)
          XCTAssertEqual(
            Double(floats(session, gradLogsumexps[index])[row]), expected, accuracy: 2e-5, "row \(row), part \(index)")
          if index == 1 { continue }
          let found = floats(session, gradOutputs[index])
          for c in 0..<columns {
            XCTAssertEqual(Double(found[row * columns + c]), w[index] * Double(dO[row * columns + c]), accuracy: 2e-6)
          }
        }
      }
    }
  }

  func testRefusals() throws {
    let session = try Session()
    let (o, l) = try tensors(session, parts(2))
    let output = try session.tensor(shape)
    func refused(_ status: Int32, _ word: String, _ found: Int32, line: UInt = #line) {
      XCTAssertEqual(found, status, Session.message, line: line)
      XCTAssert(Session.message.contains(word), Session.message, line: line)
    }
    refused(5, "merge: count is 0; expected at least 1 part", merge(session, [], [], output, mfa_tensor()))
    refused(
      3, "outputs[1]: shape is [1, 3, 5, 40]; expected [2, 3, 5, 40]",
      merge(session, [o[0], Session.tensor(o[1].buffer, [1, 3, 5, 40])], l, output, mfa_tensor()))
    refused(
      3, "logsumexps[0]: shape is [2, 3, 5, 40]; expected [2, 3, 5, 1]",
      merge(session, o, [o[0], l[1]], output, mfa_tensor()))
    var part = o[0]
    part.shape.0 = 1
    refused(3, "output: shape is [1, 3, 5, 40]", merge(session, o, l, part, mfa_tensor()))
    refused(
      5, "output: shares elements with one of logsumexps; expected the same tensor, or memory of its own",
      merge(session, o, [Session.tensor(output.buffer, [2, 3, 5, 1]), l[1]], output, mfa_tensor()))
    var double = o[1]
    double.precision = 64
    refused(
      6, "outputs[1]: FP64 is not computed on this device", merge(session, [o[0], double], l, output, mfa_tensor()))
    XCTAssertEqual(mfa_merge(session.context, nil), 5)
    XCTAssertEqual(
      merge(
        session, [Session.tensor(o[0].buffer, [0, 3, 5, 40])], [Session.tensor(l[0].buffer, [0, 3, 5, 1])],
        Session.tensor(output.buffer, [0, 3, 5, 40]), mfa_tensor()), 0, Session.message)
  }
}
