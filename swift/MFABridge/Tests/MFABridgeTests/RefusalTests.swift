import CMFA
import XCTest

/// What is wrong is refused with the documented code and a sentence, and outputs stay as they were. The sentences are those of
/// the CPU driver.
final class RefusalTests: XCTestCase {
  private let argument: Int32 = 5
  private let dimensions: Int32 = 3

  func testShapes() throws {
    let session = try Session()
    func check(_ edit: (inout mfa_forward_desc) throws -> Void, _ status: Int32, _ word: String, line: UInt = #line) throws {
      var desc = try session.legal()
      try edit(&desc)
      session.expect(desc, status, word, line: line)
    }
    try check({ $0.query.shape.3 = 0 }, dimensions, "query: head dimension is 0; expected 1 to 512")
    try check({ $0.query.shape.0 = 0 }, dimensions, "batch is 0")
    try check({ $0.key.shape.1 = 0 }, dimensions, "heads is 0")
    try check({ $0.query.shape.1 = 3 }, dimensions, "query: 3 heads; expected a multiple of the 2 key/value heads")
    try check({ $0.key.shape.2 = 6 }, dimensions, "value: shape is [1, 2, 7, 8]; expected [1, 2, 6, 8]")
    try check({ $0.key.shape.3 = 7 }, dimensions, "key")
    try check({ $0.output.shape.2 = 4 }, dimensions, "output")
    try check({ $0.query.strides.2 = -8 }, dimensions, "query: the stride of rows is -8; expected 0 or more")
    try check({ $0.output.strides.2 = 0 }, dimensions, "overlap")
    try check({ $0.output.strides.1 = 8 }, dimensions, "overlap")
    try check({ $0.query.shape = (.max, .max, .max, .max) }, dimensions, "2^48")
    try check({ $0.query.shape = (1 << 40, 1 << 40, 1 << 40, 8) }, dimensions, "more elements")
    try check({ $0.query.byte_offset = 4 }, argument, "needs 644 bytes; the buffer has 640")
    try check({ $0.query.byte_offset = 2 }, argument, "multiple of 4")
    try check({ $0.query.byte_offset = .max - 3 }, argument, "needs")
    try check({ $0.query.precision = 3 }, argument, "precision code 3 is unknown")
    try check({ $0.query.precision = 16 }, argument, "BOOL")
    try check({ $0.output.precision = 8 }, argument, "output")
    try check({ $0.key.precision = 8 }, argument, "without quantization")
    try check({ $0.struct_size = 3 }, argument, "struct_size")
    try check({ $0.reserved = 1 }, argument, "reserved")
    let short = try session.buffer(4 * 7 * 2 * 8 - 1)
    try check({ $0.key.buffer = short }, argument, "448 bytes; the buffer has 447")
    try check({ $0.key.buffer = nil }, argument, "key: the buffer is NULL")
    try check({ $0.key.buffer = session.context }, argument, "not a live buffer")
    try check({ $0.key.buffer = UnsafeMutableRawPointer(bitPattern: 7) }, argument, "key: 0x7 is not a live buffer")
  }

  func testOptions() throws {
    let session = try Session()
    func check(
      _ edit: (inout mfa_attention_options) throws -> Void, _ status: Int32, _ word: String, line: UInt = #line
    ) throws {
      var options = mfa_attention_options()
      options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
      try edit(&options)
      try withUnsafePointer(to: options) {
        var desc = try session.legal()
        desc.options = $0
        session.expect(desc, status, word, line: line)
      }
    }
    try check({ ($0.flags, $0.softmax_scale) = (1, .nan) }, argument, "softmax_scale is NaN")
    try check({ ($0.flags, $0.softmax_scale) = (1, .infinity) }, argument, "softmax_scale is inf")
    try check({ $0.flags = 1 << 30 }, argument, "options: flags is 0x40000000; expected bits of 0x7")
    try check({ $0.softcap = -1 }, argument, "options: softcap is -1; expected")
    try check({ $0.softcap = .nan }, argument, "softcap")
    try check({ $0.alignment = 2 }, argument, "alignment")
    try check({ $0.compute = -1 }, argument, "compute")
    try check({ ($0.flags, $0.window_left) = (4, -2) }, argument, "window_left")
    let mask = try session.tensor([1, 4, 5, 6])
    try check({ $0.mask = mask }, dimensions, "mask: columns is 6; expected 7 or 1 to broadcast to [1, 4, 5, 7]")
    let three = try session.tensor([1, 3, 1, 1])
    try check({ $0.sinks = three }, dimensions, "sinks")
    try check({ $0.alibi_slopes = three }, dimensions, "alibi_slopes")
    try check({ $0.sequence_count = 2 }, argument, "cu_seqlens_q")
    func lengths(_ numbers: [Int32]) throws -> UnsafeMutableRawPointer {
      let buffer = try session.buffer(4 * numbers.count)
      numbers.withUnsafeBytes { session.bytes(buffer).copyBytes(from: $0) }
      return buffer
    }
    let (q, k) = (try lengths([0, 2, 5]), try lengths([0, 3, 7]))
    func packed(_ q: UnsafeMutableRawPointer, _ k: UnsafeMutableRawPointer) -> (inout mfa_attention_options) -> Void {
      { ($0.sequence_count, $0.cu_seqlens_q, $0.cu_seqlens_k) = (2, q, k) }
    }
    try check(packed(lengths([0, 6, 5]), k), argument, "falls from 6 to 5")
    try check(packed(q, lengths([0, 3, 8])), argument, "ends with 8; expected 7")
    try check(packed(lengths([1, 2, 5]), k), argument, "begins")
    try check(packed(q, session.buffer(11)), argument, "cu_seqlens_k: 12 bytes at byte 0 are needed; the buffer has 11")
    try check({ ($0.sequence_count, $0.cu_seqlens_q) = (.max, q) }, argument, "cu_seqlens_q")
  }

  func testQuantizations() throws {
    let session = try Session()
    func check(
      _ precision: Int32, _ edit: (inout mfa_tensor, inout mfa_quantization) throws -> Void, _ status: Int32, _ word: String,
      line: UInt = #line
    ) throws {
      var quantization = mfa_quantization()
      quantization.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
      quantization.scale = 0.5
      var desc = try session.legal()
      desc.key.precision = precision
      try edit(&desc.key, &quantization)
      withUnsafePointer(to: quantization) {
        desc.key.quantization = $0
        session.expect(desc, status, word, line: line)
      }
    }
    for scale in [Float.nan, .infinity, 0] { try check(8, { $1.scale = scale }, argument, "scale") }
    try check(8, { $1.zero_point = 128 }, argument, "key: zero point is 128; expected -128 to 127 for INT8")
    try check(4, { $1.zero_point = -9 }, argument, "zero point is -9")
    try check(8, { $1.granularity = 4 }, argument, "granularity")
    try check(8, { $1.granularity = 1 }, argument, "scale_buffer")
    try check(8, { $1.granularity = 2 }, argument, "block_rows")
    try check(8, { $1.group_size = 32 }, argument, "group_size")
    try check(8, { $1.rotated = 2 }, argument, "rotated")
    try check(0, { _, _ in }, argument, "quantization was given for FP32")
    try check(4, { $0.strides.3 = 2; _ = $1 }, dimensions, "column stride")
    try check(4, { $0.strides.2 = 9; _ = $1 }, dimensions, "even")
    try check(4, { $0.shape.3 = 7; _ = $1 }, dimensions, "7 columns of INT4")
    func row(_ bytes: Int) throws -> (inout mfa_quantization) -> Void {
      let buffer = try session.buffer(bytes)
      return { ($0.granularity, $0.scale_buffer) = (1, buffer) }
    }
    let (whole, short) = (try row(56), try row(55))
    try check(8, { short(&$1) }, argument, "56 bytes")
    try check(8, { whole(&$1); $1.scale_precision = 8 }, argument, "scale_precision")
    try check(8, { whole(&$1); $1.scale_strides = (-1, -1, -1, -1) }, dimensions, "scale_strides")
    try check(8, { whole(&$1); $1.scale_strides = (.max, .max, .max, .max) }, argument, "bytes at byte 0 are needed")
    let zeros = try session.buffer(14), mean = try session.buffer(63)
    try check(8, { whole(&$1); $1.zero_point_buffer = zeros }, argument, "zero_point_bytes")
    try check(8, { $1.mean_buffer = mean }, argument, "mean_buffer")
    try check(8, { $1.struct_size = 2 }, argument, "key: quantization: struct_size is 2")
  }

  func testAllocationAndWrapping() throws {
    let session = try Session()
    var handle: UnsafeMutableRawPointer?
    for size in [UInt64.max, 1 << 60, 1 << 46] {
      XCTAssertEqual(mfa_create_buffer(session.context, size, &handle), 2)
      XCTAssert(Session.sentence.contains("\(size) bytes could not be allocated"), Session.sentence)
    }
    XCTAssertEqual(mfa_buffer_from_ptr(session.context, nil, 1, &handle), argument)
    XCTAssertEqual(mfa_buffer_from_ptr(session.context, session.context, .max, &handle), argument)
    XCTAssertEqual(mfa_buffer_from_ptr(session.context, nil, 0, &handle), 0)
    XCTAssertEqual(mfa_destroy_buffer(handle), 0)
    XCTAssertEqual(mfa_create_buffer(session.context, 0, &handle), 0)
    XCTAssertEqual(mfa_set_num_threads(session.context, 1 << 20), argument)
    XCTAssertEqual(mfa_create_context_on(.max, &handle), argument)
  }

  func testNumbersThatAreNotFinite() throws {
    let session = try Session()
    for bad in [Float.nan, .infinity, -.infinity] {
      let source = try session.tensor([1, 1, 3, 8])
      session.bytes(try XCTUnwrap(source.buffer)).storeBytes(of: bad, toByteOffset: 60, as: Float.self)
      var quantization = mfa_quantization()
      quantization.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
      quantization.scale_buffer = try session.buffer(4)
      let to = try session.buffer(24)
      session.fill(to, 0xA5)
      var desc = mfa_quantize_desc()
      desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
      desc.source = source
      desc.destination = Session.tensor(to, [1, 1, 3, 8])
      desc.destination.precision = 8
      withUnsafePointer(to: quantization) { quantization in
        desc.destination.quantization = quantization
        XCTAssertEqual(withUnsafePointer(to: desc) { mfa_quantize(session.context, $0) }, argument)
      }
      XCTAssert(Session.sentence.contains("[0, 0, 1, 7] is not finite"), Session.sentence)
      XCTAssert(session.bytes(to).allSatisfy { $0 == 0xA5 })
    }
  }
}
