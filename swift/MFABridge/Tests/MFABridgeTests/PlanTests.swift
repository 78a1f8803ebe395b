import CMFA
import TestSupport
import XCTest

/// Plans: of tensors without memory, and in words that say what was asked.
final class PlanTests: GPUTestCase {
  private func explained(_ session: Session, _ desc: mfa_forward_desc, line: UInt = #line) -> [String] {
    var length = 0
    var text = [CChar](repeating: 0, count: 4096)
    XCTAssertEqual(
      withUnsafePointer(to: desc) { mfa_explain(session.context, $0, nil, &text, text.count, &length) }, 0,
      Session.message, line: line)
    return String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self).split(separator: "\n")
      .map(String.init)
  }

  private func call(_ keys: UInt64 = 4096) -> mfa_forward_desc {
    var desc = mfa_forward_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
    desc.query = Session.tensor(nil, [1, 8, 100, 64])
    (desc.key, desc.value) = (Session.tensor(nil, [1, 2, keys, 64]), Session.tensor(nil, [1, 2, keys, 64]))
    desc.output = Session.tensor(nil, [1, 8, 100, 64])
    return desc
  }

  func testTensorsWithoutMemory() throws {
    let session = try Session()
    var desc = call()
    var quantization = mfa_quantization()
    quantization.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
    (quantization.granularity, quantization.group_size, quantization.scale_precision) = (1, 32, 1)
    desc.key.precision = 8
    withUnsafePointer(to: quantization) {
      desc.key.quantization = $0
      let lines = explained(session, desc)
      XCTAssert(
        lines.contains("key: INT8/row of 32 columns+FP16 scales [1, 2, 4096, 64]"), lines.joined(separator: "\n"))
      var bytes: UInt64 = 1
      XCTAssertEqual(
        withUnsafePointer(to: desc) { mfa_workspace_size(session.context, $0, nil, &bytes) }, 0, Session.message)
      XCTAssertEqual(bytes, 0)
      desc.output.shape.2 = 99
      XCTAssertEqual(withUnsafePointer(to: desc) { mfa_workspace_size(session.context, $0, nil, &bytes) }, 3)
      desc.output.shape.2 = 100
      XCTAssertEqual(session.forward(desc), 5, "a call needs memory")
    }
    var backward = mfa_backward_desc()
    backward.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
    (backward.query, backward.key, backward.value) = (call().query, call().key, call().value)
    (backward.grad_output, backward.logsumexp) = (call().output, Session.tensor(nil, [1, 8, 100, 1]))
    backward.grad_query = call().query
    var bytes: UInt64 = 1
    XCTAssertEqual(
      withUnsafePointer(to: backward) { mfa_workspace_size(session.context, nil, $0, &bytes) }, 0, Session.message)
    XCTAssertEqual(bytes, 4 * 8 * 100)
  }

  /// A call that does not fit the device is refused by its plan already.
  func testLargeDimensions() throws {
    let session = try Session()
    for (columns, status): (UInt64, Int32) in [(576, 0), (768, 0), (1024, 6), (1025, 3)] {
      var desc = call()
      (desc.query, desc.key) = (Session.tensor(nil, [1, 8, 100, columns]), Session.tensor(nil, [1, 2, 4096, columns]))
      (desc.value, desc.output) = (
        Session.tensor(nil, [1, 2, 4096, columns]), Session.tensor(nil, [1, 8, 100, columns])
      )
      var bytes: UInt64 = 0
      XCTAssertEqual(
        withUnsafePointer(to: desc) { mfa_workspace_size(session.context, $0, nil, &bytes) }, status, Session.message)
      if status == 6 { XCTAssert(Session.message.contains("bytes of threadgroup memory"), Session.message) }
    }
  }

  func testMeaning() throws {
    let session = try Session()
    var options = mfa_attention_options()
    options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
    options.flags = UInt32(MFA_OPTION_CAUSAL.rawValue | MFA_OPTION_SCALE.rawValue | MFA_OPTION_WINDOW.rawValue)
    (options.softmax_scale, options.softcap, options.window_left, options.window_right) = (0.25, 30, 10, -1)
    options.mask = Session.tensor(nil, [1, 1, 100, 4096])
    options.mask.precision = 16
    options.sinks = Session.tensor(nil, [1, 8, 1, 1])
    options.sinks.precision = 2
    var desc = call()
    for alignment: Int32 in [0, 1] {
      options.alignment = alignment
      withUnsafePointer(to: options) {
        desc.options = $0
        let lines = explained(session, desc)
        let diagonal =
          alignment == 0
          ? "diagonal: top left, causal; row 0 sees keys 0 to 0, row 99 sees keys 89 to 99, of 4096"
          : "diagonal: bottom right, causal; row 0 sees keys 3986 to 3996, row 99 sees keys 4085 to 4095, of 4096"
        for line in [
          "scale: 0.25", "softcap: 30", "window: 10 keys before the diagonal, any after it", diagonal,
          "mask: BOOL (true attends)", "sinks: BF16",
        ] {
          XCTAssert(lines.contains(line), "\(line) not in \(lines.joined(separator: "\n"))")
        }
      }
    }
  }
}
