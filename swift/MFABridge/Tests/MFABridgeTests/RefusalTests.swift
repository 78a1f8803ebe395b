import CMFA
import TestSupport
import XCTest

/// Wrong calls are refused with the documented code and a message, and outputs stay as they were. The messages are
/// those of the CPU driver.
final class RefusalTests: GPUTestCase {
  private let argument: Int32 = 5
  private let dimensions: Int32 = 3

  func testShapes() throws {
    let session = try Session()
    func check(
      _ edit: (inout mfa_forward_desc) throws -> Void, _ status: Int32, _ word: String, line: UInt = #line
    ) throws {
      var desc = try session.legal()
      try edit(&desc)
      session.expect(desc, status, word, line: line)
    }
    try check(
      { ($0.query.shape.3, $0.query.strides) = (1025, (0, 0, 0, 0)) }, dimensions,
      "query: head dimension is 1025; expected 0 to 1024")
    try check({ $0.value.shape.3 = 0 }, dimensions, "value: head dimension is 0; expected 1 to 1024")
    try check({ $0.query.shape.0 = 0 }, dimensions, "key: shape is [1, 2, 7, 8]; expected [0, 2, 7, 8]")
    try check(
      { ($0.key.shape.1, $0.value.shape.1) = (0, 0) }, dimensions, "query: 4 heads; expected a multiple of the 0")
    for edit: (inout mfa_forward_desc) -> Void in [
      { $0.query.strides.3 = 0 }, { $0.key.strides.3 = 0 }, { $0.value.strides.3 = 0 },
    ] {
      try check(edit, dimensions, "the stride of columns is 0; expected 1 or more, for 8 columns that differ")
    }
    try check(
      { $0.output.buffer = $0.query.buffer }, argument, "output: shares elements with query; expected memory of its own"
    )
    try check(
      { $0.logsumexp = Session.tensor($0.output.buffer, [1, 4, 5, 1]) }, argument,
      "output: shares elements with logsumexp")
    try check(
      { $0.logsumexp = Session.tensor($0.value.buffer, [1, 4, 5, 1]) }, argument,
      "logsumexp: shares elements with value")
    for size: UInt32 in [0, 4, 12, 20, 60, 100, 404] {
      try check({ $0.struct_size = size }, argument, "struct_size is \(size)")
    }
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
    try check(
      { $0.softmax_scale = 0.5 }, argument,
      "options: softmax_scale is 0.5 without MFA_OPTION_SCALE; expected both, or 0")
    try check({ $0.softmax_scale = .nan }, argument, "without MFA_OPTION_SCALE")
    try check(
      { $0.window_left = 3 }, argument, "options: window_left is 3 without MFA_OPTION_WINDOW; expected both, or 0")
    try check({ ($0.flags, $0.window_right) = (2, -5) }, argument, "window_right is -5 without MFA_OPTION_WINDOW")
    try check({ ($0.window_left, $0.window_right) = (-1, -1) }, 0, "")
    try check({ $0.struct_size = 44 }, argument, "options: struct_size is 44")
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
    try check(packed(q, lengths([0, 3, 8])), argument, "ends with 8; expected at most 7, the rows")
    try check(packed(lengths([1, 2, 5]), k), argument, "begins")
    try check(packed(q, session.buffer(11)), argument, "cu_seqlens_k: 12 bytes at byte 0 are needed; the buffer has 11")
    try check({ ($0.sequence_count, $0.cu_seqlens_q) = (.max, q) }, argument, "cu_seqlens_q")
  }

  func testQuantizations() throws {
    let session = try Session()
    func check(
      _ precision: Int32, _ edit: (inout mfa_tensor, inout mfa_quantization) throws -> Void, _ status: Int32,
      _ word: String,
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
    try check(
      4,
      {
        $0.strides.3 = 2; _ = $1
      }, dimensions, "column stride")
    try check(
      4,
      {
        $0.strides.2 = 9; _ = $1
      }, dimensions, "even")
    try check(
      4,
      {
        $0.shape.3 = 7; _ = $1
      }, dimensions, "7 columns of INT4")
    func row(_ bytes: Int) throws -> (inout mfa_quantization) -> Void {
      let buffer = try session.buffer(bytes)
      return { ($0.granularity, $0.scale_buffer) = (1, buffer) }
    }
    let (whole, short) = (try row(56), try row(55))
    try check(8, { short(&$1) }, argument, "56 bytes")
    try check(
      8,
      {
        whole(&$1); $1.scale_precision = 8
      }, argument, "scale_precision")
    try check(
      8,
      {
        whole(&$1); $1.scale_strides = (-1, -1, -1, -1)
      }, dimensions, "scale_strides")
    try check(
      8,
      {
        whole(&$1); $1.scale_strides = (.max, .max, .max, .max)
      }, argument, "bytes at byte 0 are needed")
    let zeros = try session.buffer(14), mean = try session.buffer(63)
    try check(
      8,
      {
        whole(&$1); $1.zero_point_buffer = zeros
      }, argument, "zero_point_bytes")
    try check(8, { $1.mean_buffer = mean }, argument, "mean_buffer")
    for size: UInt32 in [2, 12, 28, 36] {
      try check(8, { $1.struct_size = size }, argument, "key: quantization: struct_size is \(size)")
    }
    // Part of a cache: its scales are not those of a contiguous tensor.
    let cache = try session.buffer(2 * 10 * 8)
    let view =
      "key: strides [0, 80, 8, 1] of shape [1, 2, 7, 8] are those of a view, without scale_strides; "
      + "expected the strides of "
      + "its scales [1, 2, 7, 1]"
    func part(_ tensor: inout mfa_tensor) { (tensor.buffer, tensor.strides) = (cache, (160, 80, 8, 1)) }
    try check(
      8,
      {
        part(&$0); try row(68)(&$1)
      }, argument, view)
    try check(
      8,
      {
        part(&$0); try row(68)(&$1); $1.scale_strides = (20, 10, 1, 1)
      }, 0, "")
    try check(
      8,
      {
        part(&$0); _ = $1
      }, 0, "")
    // Zero points of which strides name some again and again, where any is out of range.
    let many = try session.buffer(4 * 14)
    session.bytes(many).storeBytes(of: 128, toByteOffset: 4 * 7, as: Int32.self)
    try check(
      8,
      {
        whole(&$1)
        ($1.zero_point_buffer, $1.zero_point_bytes, $1.scale_strides) = (many, 4, (0, 1, 1, 1))
      }, argument, "key: zero point is 128; expected -128 to 127 for INT8")
  }

  /// Absurd sizes, without memory behind them: planned at once, or refused.
  func testBroadcasts() throws {
    let session = try Session()
    let small = try session.buffer(4096)
    func broadcast(_ shape: [UInt64]) -> mfa_tensor {
      var tensor = Session.tensor(small, shape.map { _ in 1 })
      (tensor.shape, tensor.strides) = ((shape[0], shape[1], shape[2], shape[3]), (0, 0, 0, 1))
      return tensor
    }
    // Batch, heads, key heads, rows, keys: powers of two; -1 for 0.
    let powers: [[Int]] = [
      [0, 33, 33, 0, 0], [14, 48, 0, 0, 0], [14, 45, 45, 0, 0], [29, 29, 0, 0, 0], [0, 0, 0, 48, 0], [0, 0, 0, 0, 48],
      [20, 20, 20, 20, 1], [48, 14, 0, -1, -1], [29, 29, 29, 0, 3], [5, 28, 28, 28, 28],
    ]
    for power in powers {
      let sizes = power.map { $0 < 0 ? UInt64(0) : 1 << UInt64($0) }
      let (batch, heads, keyHeads, rows, keys) = (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
      var desc = mfa_backward_desc()
      desc.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
      (desc.query, desc.grad_output) = (broadcast([batch, heads, rows, 1]), broadcast([batch, heads, rows, 1]))
      (desc.key, desc.value) = (broadcast([batch, keyHeads, keys, 1]), broadcast([batch, keyHeads, keys, 1]))
      desc.logsumexp = broadcast([batch, heads, rows, 1])
      var options = mfa_attention_options()
      options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
      options.sinks = broadcast([1, heads, 1, 1])
      options.mask = broadcast([1, 1, 1, 1])
      let name = "\([batch, heads, keyHeads, rows, keys])"
      withUnsafePointer(to: options) { options in
        desc.options = options
        var bytes: UInt64 = 0
        let planned = withUnsafePointer(to: desc) { mfa_workspace_size(session.context, nil, $0, &bytes) }
        XCTAssert([0, 3, 5, 6].contains(planned), "\(name): \(planned) \(Session.message)")
        // D of all rows needs memory, which is not there.
        desc.grad_mask = Session.tensor(small, [1, 1, 1, 1])
        desc.grad_mask.byte_offset = 1024
        if planned != 0 || power.contains(-1) || power[0] + power[1] + power[3] < 40 { return }
        XCTAssertEqual(
          withUnsafePointer(to: desc) { mfa_backward(session.context, $0) }, 2, "\(name): \(Session.message)")
      }
      var forward = mfa_forward_desc()
      forward.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
      (forward.query, forward.key, forward.value) = (desc.query, desc.key, desc.value)
      forward.output = broadcast([batch, heads, rows, 1])
      XCTAssert(rows == 0 || [3, 5, 6].contains(session.forward(forward)), name)
    }
  }

  /// Refusals of `mfa_quantize`: arrays that cannot hold its results, and parameters that nothing can be rounded with.
  func testRounding() throws {
    let session = try Session()
    func check(
      _ edit: (inout mfa_quantize_desc, inout mfa_quantization) throws -> Void, _ word: String, line: UInt = #line
    ) throws {
      var quantization = mfa_quantization()
      quantization.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
      (quantization.granularity, quantization.scale_buffer) = (1, try session.buffer(80))
      session.fill(quantization.scale_buffer, 0x3F)
      var desc = mfa_quantize_desc()
      desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
      desc.source = try session.tensor([1, 2, 5, 8])
      desc.destination = Session.tensor(try session.buffer(160), [1, 2, 5, 8])
      desc.destination.precision = 8
      session.fill(desc.destination.buffer!, 0xA5)
      try edit(&desc, &quantization)
      let results = [desc.destination.buffer!, quantization.scale_buffer!]
      let before = results.map { Array(session.bytes($0)) }
      let status = withUnsafePointer(to: quantization) { quantization in
        desc.destination.quantization = quantization
        return withUnsafePointer(to: desc) { mfa_quantize(session.context, $0) }
      }
      XCTAssertEqual(status == 0, word.isEmpty, "\(status) \(Session.message)", line: line)
      if word.isEmpty { return }
      XCTAssert(Session.message.contains(word), "\(Session.message) does not say \(word)", line: line)
      XCTAssertEqual(results.map { Array(session.bytes($0)) }, before, line: line)
    }
    try check({ _, _ in }, "")
    try check({ $1.scale_strides = (20, 10, 2, 1) }, "")
    try check({ $1.scale_strides = (0, 0, 0, 1) }, "destination: scale_buffer: strides")
    try check({ $1.scale_strides = (0, 4, 1, 1) }, "overlap")
    try check(
      { ($1.scale_buffer, $1.scale_offset) = ($0.destination.buffer, 40) },
      "destination: shares elements with scale_buffer")
    try check({ $1.scale_buffer = $0.source.buffer }, "scale_buffer: shares elements with source")
    try check(
      {
        $0.destination.buffer = $0.source.buffer; _ = $1
      }, "destination: shares elements with source")
    try check(
      {
        $0.flags = 1; ($1.zero_point_buffer, $1.zero_point_bytes) = ($1.scale_buffer, 4)
      }, "scale_buffer: shares elements with zero_point_buffer")
    try check(
      {
        $0.flags = 2; $1.mean_buffer = $0.source.buffer
      }, "mean_buffer: shares elements with source")
    for bad in [0, Float.nan, .infinity, -.infinity] {
      try check(
        {
          $0.flags = 8
          session.bytes($1.scale_buffer).storeBytes(of: bad, toByteOffset: 28, as: Float.self)
        }, "expected a finite number other than 0")
    }
    for (precision, bad): (Int32, Int32) in [(8, .max), (8, -129), (4, 8), (4, .min)] {
      try check(
        {
          ($0.flags, $0.destination.precision) = (9, precision)
          ($1.zero_point_buffer, $1.zero_point_bytes) = (try session.buffer(40), 4)
          session.bytes($1.zero_point_buffer).storeBytes(of: bad, toByteOffset: 36, as: Int32.self)
        }, "destination: zero point is \(bad)")
    }
    // A dequantization does not write over what it reads.
    var codes = Session.tensor(try session.buffer(160), [1, 2, 5, 8])
    let real = codes
    var one = mfa_quantization()
    (one.struct_size, one.scale) = (UInt32(MemoryLayout<mfa_quantization>.size), 1)
    withUnsafePointer(to: one) { one in
      (codes.precision, codes.quantization, codes.byte_offset) = (8, one, 80)
      let status = withUnsafePointer(to: codes) { from in
        withUnsafePointer(to: real) { mfa_dequantize(session.context, from, $0) }
      }
      XCTAssertEqual(status, argument)
    }
  }

  func testAllocationAndWrapping() throws {
    let session = try Session()
    var handle: UnsafeMutableRawPointer?
    for size in [UInt64.max, 1 << 60, 1 << 46] {
      XCTAssertEqual(mfa_create_buffer(session.context, size, &handle), 2)
      XCTAssert(Session.message.contains("\(size) bytes could not be allocated"), Session.message)
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
      XCTAssert(Session.message.contains("[0, 0, 1, 7] is not finite"), Session.message)
      XCTAssert(session.bytes(to).allSatisfy { $0 == 0xA5 })
    }
  }
}
