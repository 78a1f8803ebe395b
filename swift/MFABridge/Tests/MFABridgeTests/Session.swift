import CMFA
import XCTest

@testable import MFABridge

/// The functions of the header, called as C calls them: a wrong signature of ours would not link or not work.
final class Session {
  let context: UnsafeMutableRawPointer

  init() throws {
    var handle: UnsafeMutableRawPointer?
    XCTAssertEqual(mfa_create_context(&handle), 0, Session.message)
    context = try XCTUnwrap(handle)
  }

  deinit { mfa_destroy_context(context) }

  static var message: String { String(cString: mfa_last_error(nil)) }

  func buffer(_ size: Int) throws -> UnsafeMutableRawPointer {
    var handle: UnsafeMutableRawPointer?
    XCTAssertEqual(mfa_create_buffer(context, UInt64(size), &handle), 0, Session.message)
    return try XCTUnwrap(handle)
  }

  /// The bytes of a buffer, for use between calls.
  func bytes(_ buffer: UnsafeMutableRawPointer) -> UnsafeMutableRawBufferPointer {
    var (contents, size): (UnsafeMutableRawPointer?, UInt64) = (nil, 0)
    XCTAssertEqual(mfa_buffer_contents(buffer, &contents), 0)
    XCTAssertEqual(mfa_buffer_size(buffer, &size), 0)
    return .init(start: contents, count: Int(size))
  }

  func fill(_ buffer: UnsafeMutableRawPointer, _ byte: UInt8) {
    bytes(buffer).copyBytes(from: repeatElement(byte, count: bytes(buffer).count))
  }

  /// A contiguous FP32 tensor in a buffer of its own.
  func tensor(_ shape: [UInt64]) throws -> mfa_tensor {
    Session.tensor(try buffer(4 * Int(shape.reduce(1, *))), shape)
  }

  static func tensor(_ buffer: UnsafeMutableRawPointer?, _ shape: [UInt64]) -> mfa_tensor {
    var result = mfa_tensor()
    result.buffer = buffer
    result.shape = (shape[0], shape[1], shape[2], shape[3])
    let columns = Int64(max(shape[3], 1)), rows = columns * Int64(max(shape[2], 1))
    result.strides = (rows * Int64(max(shape[1], 1)), rows, columns, 1)
    return result
  }

  /// A legal call: batch 1, 4 query and 2 key/value heads, 5 rows, 7 keys, 8 columns.
  func legal() throws -> mfa_forward_desc {
    var desc = mfa_forward_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
    desc.query = try tensor([1, 4, 5, 8])
    desc.key = try tensor([1, 2, 7, 8])
    desc.value = try tensor([1, 2, 7, 8])
    desc.output = try tensor([1, 4, 5, 8])
    return desc
  }

  func forward(_ desc: mfa_forward_desc) -> Int32 { withUnsafePointer(to: desc) { mfa_forward(context, $0) } }

  /// Runs a call that must end with `status` and a message that contains `word`; one that is refused must not touch the
  /// output.
  func expect(
    _ desc: mfa_forward_desc, _ status: Int32, _ word: String, file: StaticString = #filePath, line: UInt = #line
  ) {
    guard let output = desc.output.buffer else { return XCTFail("no output", file: file, line: line) }
    fill(output, 0xA5)
    let found = forward(desc)
    XCTAssertEqual(found, status, Session.message, file: file, line: line)
    let untouched = bytes(output).allSatisfy { $0 == 0xA5 }
    XCTAssertEqual(untouched, status != 0, "output untouched: \(untouched)", file: file, line: line)
    if status != 0 {
      XCTAssert(Session.message.contains(word), "\(Session.message) does not say \(word)", file: file, line: line)
    }
  }
}

/// A small generator with a fixed sequence.
struct Generator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
