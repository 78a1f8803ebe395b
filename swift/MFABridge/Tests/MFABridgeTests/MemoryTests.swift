import CMFA
import Foundation
import TestSupport
import XCTest

/// The caller's memory: results are in it after the call, and nothing else of it is changed.
final class MemoryTests: GPUTestCase {
  private func wrap(_ session: Session, _ data: UnsafeMutableRawPointer, _ size: Int) throws -> UnsafeMutableRawPointer
  {
    var handle: UnsafeMutableRawPointer?
    XCTAssertEqual(mfa_buffer_from_ptr(session.context, data, UInt64(size), &handle), 0, Session.message)
    var contents: UnsafeMutableRawPointer?
    XCTAssertEqual(mfa_buffer_contents(handle, &contents), 0)
    XCTAssertEqual(contents, data, "a wrapped buffer is where the caller said")
    return try XCTUnwrap(handle)
  }

  private func explained(_ session: Session, _ desc: mfa_forward_desc) -> String {
    var length = 0
    var text = [CChar](repeating: 0, count: 4096)
    XCTAssertEqual(withUnsafePointer(to: desc) { mfa_explain(session.context, $0, nil, &text, text.count, &length) }, 0)
    return String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// Whole pages are used in place, other memory by way of a copy; the answer is the same.
  func testWrappedMemory() throws {
    let session = try Session()
    let page = Int(getpagesize())
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 5 * page, alignment: page)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0xA5, count: 5 * page)
    var answers: [Data] = []
    for offset in [0, 4] {
      var desc = try session.legal()
      for tensor in [desc.query, desc.key, desc.value] {
        let bytes = session.bytes(try XCTUnwrap(tensor.buffer))
        for i in 0..<bytes.count / 4 { bytes.storeBytes(of: cos(Float(i)), toByteOffset: 4 * i, as: Float.self) }
      }
      desc.output.buffer = try wrap(session, memory + offset, offset == 0 ? page : 640)
      XCTAssertEqual(session.forward(desc), 0, Session.message)
      answers.append(Data(bytes: memory + offset, count: 640))
      let said = explained(session, desc)
      XCTAssert(said.contains("copied: \(offset == 0 ? 0 : 640) bytes"), said)
      XCTAssertEqual(said.contains("in every call"), offset != 0, said)
      XCTAssertEqual(said.contains("mfa_create_buffer"), offset != 0, said)
      var workspace: UInt64 = 1
      XCTAssertEqual(withUnsafePointer(to: desc) { mfa_workspace_size(session.context, $0, nil, &workspace) }, 0)
      XCTAssertEqual(workspace, offset == 0 ? 0 : 640)
    }
    XCTAssertEqual(answers[0], answers[1])
    let rest = UnsafeRawBufferPointer(start: memory + 644, count: 5 * page - 644)
    XCTAssert(rest.allSatisfy { $0 == 0xA5 })
  }

  /// Without queries the gradient of a mask has no element: an axis of size 0 is not one that it is summed over.
  func testEmptyMaskGradient() throws {
    let session = try Session(), mask = try session.buffer(64), gradient = try session.buffer(64)
    for buffer in [mask, gradient] { session.fill(buffer, 0xA5) }
    var options = mfa_attention_options()
    options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
    options.mask = Session.tensor(mask, [1, 1, 0, 7])
    var desc = mfa_backward_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
    (desc.key, desc.value) = (try session.tensor([1, 1, 7, 8]), try session.tensor([1, 1, 7, 8]))
    (desc.query, desc.grad_output) = (Session.tensor(mask, [1, 1, 0, 8]), Session.tensor(mask, [1, 1, 0, 8]))
    desc.logsumexp = Session.tensor(mask, [1, 1, 0, 1])
    desc.grad_mask = Session.tensor(gradient, [1, 1, 0, 7])
    let status = withUnsafePointer(to: options) { options in
      desc.options = options
      return withUnsafePointer(to: desc) { mfa_backward(session.context, $0) }
    }
    XCTAssertEqual(status, 0, Session.message)
    XCTAssert(session.bytes(gradient).allSatisfy { $0 == 0xA5 }, "something beside the gradient was written")
  }

  /// Two calls at once, whose outputs interleave in one piece of memory.
  func testInterleavedOutputs() throws {
    let session = try Session(), other = try Session()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 2 * 640, alignment: 64)
    defer { memory.deallocate() }
    let shared = try wrap(session, memory, 1280)
    var calls: [Call] = []
    for (half, context) in [session.context, other.context].enumerated() {
      var desc = try session.legal()
      let value = session.bytes(try XCTUnwrap(desc.value.buffer))
      // The answer is the one number that V holds.
      for i in 0..<value.count / 4 { value.storeBytes(of: Float(half + 1), toByteOffset: 4 * i, as: Float.self) }
      desc.output.buffer = shared
      desc.output.byte_offset = UInt64(32 * half)
      desc.output.strides = (320, 80, 16, 1)
      calls.append(Call(context: context, desc: desc))
    }
    let both = calls
    for _ in 0..<20 {
      memory.initializeMemory(as: UInt8.self, repeating: 0xFF, count: 1280)
      DispatchQueue.concurrentPerform(iterations: 2) { i in
        XCTAssertEqual(withUnsafePointer(to: both[i].desc) { mfa_forward(both[i].context, $0) }, 0)
      }
      for i in 0..<320 {
        let expected: Float = i / 8 % 2 == 0 ? 1 : 2
        XCTAssertEqual(memory.load(fromByteOffset: 4 * i, as: Float.self), expected, accuracy: 1e-6)
      }
    }
  }

  private struct Call: @unchecked Sendable {  // handles are numbers
    let context: UnsafeMutableRawPointer
    let desc: mfa_forward_desc
  }

  func testPlansAreCutLikeNames() throws {
    let session = try Session()
    let desc = try session.legal()
    let whole = explained(session, desc)
    XCTAssert(whole.contains("operation: forward\n") && whole.contains("query: FP32 [1, 4, 5, 8]\n"), whole)
    var (cut, length) = ([CChar](repeating: 7, count: 12), 0)
    XCTAssertEqual(withUnsafePointer(to: desc) { mfa_explain(session.context, $0, nil, &cut, 10, &length) }, 0)
    XCTAssertEqual(cut.map { UInt8(bitPattern: $0) }, Array("operation".utf8) + [0, 7, 7])
    XCTAssertEqual(length, whole.utf8.count)
  }
}
