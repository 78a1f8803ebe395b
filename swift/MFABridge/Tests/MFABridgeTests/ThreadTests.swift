import CMFA
import Foundation
import TestSupport
import XCTest

/// Many threads and contexts at once.
final class ThreadTests: GPUTestCase {
  /// A descriptor for another thread: handles are numbers, and the contract allows calls from anywhere.
  private struct Anywhere: @unchecked Sendable {
    let context: UnsafeMutableRawPointer
    let desc: mfa_forward_desc
  }

  func testCallsFromManyThreads() throws {
    let sessions = [try Session(), try Session()]
    let desc = try sessions[0].legal()
    for (seed, tensor) in [desc.query, desc.key, desc.value].enumerated() {
      var generator = Generator(state: UInt64(seed))
      let bytes = sessions[0].bytes(try XCTUnwrap(tensor.buffer))
      for i in 0..<bytes.count / 4 {
        bytes.storeBytes(of: Float.random(in: -1...1, using: &generator), toByteOffset: 4 * i, as: Float.self)
      }
    }
    XCTAssertEqual(sessions[0].forward(desc), 0, Session.message)
    let expected = Data(sessions[0].bytes(try XCTUnwrap(desc.output.buffer)))
    var work: [Anywhere] = []
    for i in 0..<4 {
      var mine = desc
      mine.output = try sessions[0].tensor([1, 4, 5, 8])
      work.append(Anywhere(context: sessions[i % 2].context, desc: mine))
    }
    let calls = work
    DispatchQueue.concurrentPerform(iterations: calls.count) { i in
      for _ in 0..<10 {
        XCTAssertEqual(withUnsafePointer(to: calls[i].desc) { mfa_forward(calls[i].context, $0) }, 0)
      }
      // The message is the thread's own.
      XCTAssertEqual(mfa_forward(nil, nil), 1)
      XCTAssert(Session.message.hasPrefix("the context is NULL"))
    }
    for call in calls {
      XCTAssertEqual(Data(sessions[0].bytes(try XCTUnwrap(call.desc.output.buffer))), expected)
    }
    var seconds = 0.0
    XCTAssertEqual(mfa_get_latency(sessions[0].context, &seconds), 0)
    XCTAssertGreaterThan(seconds, 0)
  }

  func testHandlesAcrossThreads() throws {
    let session = try Session()
    let context = UInt(bitPattern: session.context)
    DispatchQueue.concurrentPerform(iterations: 8) { _ in
      let context = UnsafeMutableRawPointer(bitPattern: context)
      for size in 0..<50 {
        var handle: UnsafeMutableRawPointer?
        XCTAssertEqual(mfa_create_buffer(context, UInt64(size), &handle), 0)
        XCTAssertEqual(mfa_destroy_buffer(handle), 0)
        XCTAssertEqual(mfa_destroy_buffer(handle), 5)
        XCTAssertEqual(mfa_destroy_context(handle), 1)
      }
    }
  }
}
