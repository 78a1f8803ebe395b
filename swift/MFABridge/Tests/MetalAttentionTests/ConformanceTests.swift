import Foundation
import Metal
import MetalAttention
import TestSupport
import XCTest

/// The vectors of tests/conformance: attention through the Swift API, refusals and quantization through the
/// descriptions that the C edge makes too. The fixed signatures of C are the C runner's.
final class ConformanceTests: GPUTestCase {
  func testForward() throws {
    try each({ $0.call == "attention" && $0.status == 0 && $0.tensors["output"] != nil }) { live, attention in
      let commands = try attention.forward(
        query: XCTUnwrap(live.tensor("query")), key: XCTUnwrap(live.tensor("key")),
        value: XCTUnwrap(live.tensor("value")),
        output: XCTUnwrap(live.tensor("output")), logsumexp: live.tensor("logsumexp"), descriptor: live.descriptor())
      try finish(commands)
      return live.complaint(roles: { !isBackward($0) }, refused: false)
    }
  }

  func testBackward() throws {
    try each({ $0.call == "attention" && $0.status == 0 && $0.tensors["grad_output"] != nil }) { live, attention in
      let gradients = AttentionGradients(
        query: try live.tensor("grad_query"), key: try live.tensor("grad_key"), value: try live.tensor("grad_value"),
        mask: try live.tensor("grad_mask"), sinks: try live.tensor("grad_sinks"), dValues: try live.tensor("d_values"),
        dIsGiven: live.c.flags & 1 != 0, clips: live.c.flags & 2 != 0)
      let commands = try attention.makeCommandBuffer()
      try attention.encodeBackward(
        query: XCTUnwrap(live.tensor("query")), key: XCTUnwrap(live.tensor("key")),
        value: XCTUnwrap(live.tensor("value")),
        output: live.tensor("given_output"), gradOutput: XCTUnwrap(live.tensor("grad_output")),
        logsumexp: XCTUnwrap(live.tensor("given_logsumexp")), gradients: gradients, descriptor: live.descriptor(),
        into: commands)
      try finish(commands)
      return live.complaint(roles: isBackward, refused: false)
    }
  }

  func testQuantization() throws {
    let context = try self.context()
    try each({ ["quantize", "dequantize"].contains($0.call) && $0.status == 0 }) { live, _ in
      if live.c.call == "dequantize" {
        try context.dequantize(live.description("source"), live.description("destination"))
        return live.complaint(roles: { _ in true }, refused: false)
      }
      let report = try context.quantize(live.quantize, wantsError: true)
      return live.complaint(roles: { _ in true }, refused: false, report: report)
    }
  }

  func testRefusals() throws {
    let context = try self.context()
    try each({ $0.status != 0 }) { live, _ in
      do {
        switch live.c.call {
        case "quantize": _ = try context.quantize(live.quantize, wantsError: true)
        case "dequantize": try context.dequantize(live.description("source"), live.description("destination"))
        default:
          if live.c.tensors["output"] != nil { try context.forward(live.forward) }
          if live.c.tensors["grad_output"] != nil { try context.backward(live.backward) }
        }
        return "was accepted"
      } catch let error as AttentionError {
        if error.status.rawValue != live.c.status {
          return "status \(error.status), expected \(live.c.status): \(error)"
        }
        return error.message.isEmpty
          ? "refused without a message" : live.complaint(roles: { _ in false }, refused: true)
      }
    }
  }

  private func context() throws -> AttentionContext {
    try AttentionContext(device: XCTUnwrap(AttentionDevice.all().first))
  }

  /// Runs `body` on each case that is wanted, several at once; it returns what is wrong, or nil. What a device cannot
  /// do is a failure.
  private func each(
    _ wanted: (VectorCase) -> Bool, _ body: @Sendable (LiveCase, QuantizedAttention) throws -> String?
  ) throws {
    let device = try XCTUnwrap(MTLCreateSystemDefaultDevice())
    let attention = try QuantizedAttention(device: device)
    let cases = try Vectors.read().filter(wanted)
    let complaints = Locked<[String]>([])
    DispatchQueue.concurrentPerform(iterations: cases.count) { i in
      let c = cases[i]
      do {
        guard let complaint = try body(LiveCase(c, on: device), attention) else { return }
        complaints.update { $0.append("\(c.name): \(complaint)") }
      } catch { complaints.update { $0.append("\(c.name): \(error)") } }
    }
    for complaint in complaints.value.sorted() { XCTFail(complaint) }
    if ProcessInfo.processInfo.environment["MFA_ONLY"] == nil { XCTAssertGreaterThan(cases.count, 0) }
    print("\(cases.count) cases")
  }
}

private func isBackward(_ role: String) -> Bool { role.hasPrefix("grad_") || role == "d_values" }

private func finish(_ commands: any MTLCommandBuffer) throws {
  commands.commit()
  commands.waitUntilCompleted()
  if let error = commands.error { throw error }
}
