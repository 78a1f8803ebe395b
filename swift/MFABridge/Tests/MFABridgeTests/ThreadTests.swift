import CMFA
import Foundation
import XCTest

/// Many threads and contexts at once, and descriptors of random nonsense.
final class ThreadTests: XCTestCase {
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
    XCTAssertEqual(sessions[0].forward(desc), 0, Session.sentence)
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
      // The sentence is the thread's own.
      XCTAssertEqual(mfa_forward(nil, nil), 1)
      XCTAssert(Session.sentence.hasPrefix("the context is NULL"))
    }
    for call in calls {
      XCTAssertEqual(Data(sessions[0].bytes(try XCTUnwrap(call.desc.output.buffer))), expected)
    }
    var seconds = 0.0
    XCTAssertEqual(mfa_get_latency(sessions[0].context, &seconds), 0)
    XCTAssertGreaterThan(seconds, 0)
  }

  func testNonsenseIsRefused() throws {
    let session = try Session()
    var generator = Generator(state: 7)
    func awkward() -> Int64 {
      switch Int.random(in: 0..<10, using: &generator) {
      case 0..<5: return .random(in: 0..<9, using: &generator)
      case 5: return -1
      case 6: return [.max, .min, 1 << 32, 513].randomElement(using: &generator) ?? 0
      default: return .random(in: .min ... .max, using: &generator)
      }
    }
    let legal = try session.legal()
    let output = try XCTUnwrap(legal.output.buffer)
    for round in 0..<2000 {
      func spoiled(_ tensor: mfa_tensor) -> mfa_tensor {
        var tensor = tensor
        let edit = Int.random(in: 0..<3, using: &generator)
        if edit > 0 {
          tensor.strides = (awkward(), awkward(), awkward(), awkward())
          tensor.byte_offset = UInt64(bitPattern: awkward())
        }
        if edit > 1 {
          let shape = (0..<4).map { _ in UInt64(bitPattern: awkward()) }
          tensor.shape = (shape[0], shape[1], shape[2], shape[3])
          tensor.precision = Int32(truncatingIfNeeded: awkward())
        }
        return tensor
      }
      var options = mfa_attention_options()
      options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
      options.flags = .random(in: 0..<8, using: &generator)
      (options.window_left, options.window_right) = (awkward(), awkward())
      (options.alignment, options.compute) = (.random(in: -1..<4, using: &generator), .random(in: -1..<3, using: &generator))
      options.mask = round % 3 == 0 ? spoiled(legal.query) : mfa_tensor()
      session.fill(output, 0xA5)
      let status = withUnsafePointer(to: options) { options in
        var desc = legal
        desc.query = spoiled(desc.query)
        desc.key = spoiled(desc.key)
        desc.value = spoiled(desc.value)
        desc.output = spoiled(desc.output)
        desc.options = options
        return session.forward(desc)
      }
      XCTAssert((0...6).contains(status) && status != 4, "round \(round): \(status) \(Session.sentence)")
      if status != 0 {
        XCTAssertFalse(Session.sentence.isEmpty)
        XCTAssert(session.bytes(output).allSatisfy { $0 == 0xA5 }, "round \(round)")
      }
    }
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
