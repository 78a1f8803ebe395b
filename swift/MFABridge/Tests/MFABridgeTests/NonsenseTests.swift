import CMFA
import TestSupport
import XCTest

/// Descriptors of random nonsense: whatever they say, the call returns a status; where it is not 0 there is a message,
/// and no result was touched.
final class NonsenseTests: GPUTestCase {
  private var generator = Generator(state: 7)

  /// Numbers that break things, among small ones.
  private func awkward() -> Int64 {
    switch Int.random(in: 0..<10, using: &generator) {
    case 0..<5: return .random(in: 0..<9, using: &generator)
    case 5: return -1
    case 6: return [.max, .min, 1 << 32, 513, 1 << 47].randomElement(using: &generator) ?? 0
    default: return .random(in: .min ... .max, using: &generator)
    }
  }

  private func awkwardStrides() -> (Int64, Int64, Int64, Int64) { (awkward(), awkward(), awkward(), awkward()) }

  private func chance(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &generator) == 0 }

  private func spoiled(_ tensor: mfa_tensor, one n: Int = 3) -> mfa_tensor {
    var tensor = tensor
    if chance(n) {
      tensor.strides = awkwardStrides()
      tensor.byte_offset = UInt64(bitPattern: awkward())
    }
    if chance(n) {
      let shape = (0..<4).map { _ in UInt64(bitPattern: awkward()) }
      tensor.shape = (shape[0], shape[1], shape[2], shape[3])
    }
    if chance(2 * n) { tensor.precision = Int32(truncatingIfNeeded: awkward()) }
    if chance(4 * n) { tensor.buffer = UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: Int(awkward()))) }
    return tensor
  }

  private func options(_ session: Session, _ mask: mfa_tensor) -> mfa_attention_options {
    var options = mfa_attention_options()
    options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
    options.flags = .random(in: 0..<8, using: &generator)
    (options.window_left, options.window_right) = (max(awkward(), -2), max(awkward(), -2))
    (options.alignment, options.compute) = (.random(in: 0..<3, using: &generator), chance(9) ? 2 : 0)
    if chance(3) { options.mask = spoiled(mask) }
    if chance(9) { options.sequence_count = UInt32(truncatingIfNeeded: awkward()) }
    return options
  }

  /// Scales, zero points and means in memory of their own. That scales which are written do not overlap is the caller's
  /// promise.
  private func quantization(_ arrays: [UnsafeMutableRawPointer], isWritten: Bool) -> mfa_quantization {
    var q = mfa_quantization()
    q.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
    q.granularity = .random(in: 0..<5, using: &generator)
    q.block_rows = UInt32(truncatingIfNeeded: chance(2) ? 0 : awkward())
    q.group_size = chance(3) ? 32 : 0
    (q.scale, q.zero_point) = (chance(5) ? .nan : 0.5, Int32(truncatingIfNeeded: awkward()))
    if !chance(4) { q.scale_buffer = arrays[0] }
    if chance(3) { q.scale_offset = UInt64(bitPattern: awkward()) }
    if chance(3) { (q.zero_point_buffer, q.zero_point_bytes) = (arrays[1], chance(2) ? 1 : 4) }
    if chance(3) && !isWritten { q.scale_strides = awkwardStrides() }
    if chance(3) { q.mean_buffer = arrays[2] }
    q.rotated = chance(3) ? 1 : 0
    return q
  }

  private func check(_ session: Session, _ status: Int32, _ results: [UnsafeMutableRawPointer?], _ round: Int) {
    XCTAssert((0...6).contains(status) && status != 4, "round \(round): \(status) \(Session.message)")
    if status == 0 { return }
    XCTAssertFalse(Session.message.isEmpty)
    for result in results {
      guard let result else { continue }
      XCTAssert(session.bytes(result).allSatisfy { $0 == 0xA5 }, "round \(round): \(Session.message)")
    }
  }

  func testForward() throws {
    let session = try Session()
    let legal = try session.legal()
    let output = try XCTUnwrap(legal.output.buffer)
    for round in 0..<2000 {
      session.fill(output, 0xA5)
      let status = withUnsafePointer(to: options(session, legal.query)) { options in
        var desc = legal
        desc.query = spoiled(desc.query)
        desc.key = spoiled(desc.key)
        desc.value = spoiled(desc.value)
        desc.output = spoiled(desc.output)
        if desc.output.buffer != output { desc.output.buffer = nil }
        desc.options = options
        return session.forward(desc)
      }
      check(session, status, [output], round)
    }
  }

  func testBackward() throws {
    let session = try Session()
    let legal = try session.legal()
    let results = try (0..<4).map { _ in try session.tensor([1, 4, 5, 8]) }
    let logsumexp = try session.tensor([1, 4, 5, 1])
    for round in 0..<1500 {
      for result in results { session.fill(try XCTUnwrap(result.buffer), 0xA5) }
      var desc = mfa_backward_desc()
      desc.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
      desc.flags = chance(9) ? 8 : .random(in: 0..<4, using: &generator)
      (desc.query, desc.key, desc.value) = (
        spoiled(legal.query, one: 9), spoiled(legal.key, one: 9), spoiled(legal.value, one: 9)
      )
      (desc.grad_output, desc.logsumexp) = (spoiled(legal.output, one: 9), spoiled(logsumexp, one: 9))
      if chance(3) { desc.output = spoiled(legal.output) }
      if chance(2) { desc.d_values = spoiled(logsumexp) }
      func result(_ i: Int, _ like: mfa_tensor) -> mfa_tensor {
        var tensor = spoiled(like, one: 9)
        tensor.buffer = results[i].buffer
        return chance(3) ? mfa_tensor() : tensor
      }
      (desc.grad_query, desc.grad_key, desc.grad_value) = (
        result(0, legal.query), result(1, legal.key), result(2, legal.value)
      )
      desc.grad_mask = chance(5) ? result(3, legal.query) : mfa_tensor()
      let status = withUnsafePointer(to: options(session, legal.query)) { options in
        desc.options = options
        return withUnsafePointer(to: desc) { mfa_backward(session.context, $0) }
      }
      check(session, status, results.map(\.buffer), round)
      var bytes: UInt64 = 0
      let planned = withUnsafePointer(to: desc) { mfa_workspace_size(session.context, nil, $0, &bytes) }
      XCTAssert((0...6).contains(planned))
    }
  }

  func testQuantization() throws {
    let session = try Session()
    let source = try session.tensor([1, 2, 6, 32])
    let (codes, real) = (try session.buffer(384), try session.tensor([1, 2, 6, 32]))
    let arrays = try (0..<3).map { _ in try session.buffer(2048) }
    for round in 0..<3000 {
      session.fill(codes, 0xA5)
      session.fill(try XCTUnwrap(real.buffer), 0xA5)
      for array in arrays { session.fill(array, 0) }
      withUnsafePointer(to: quantization(arrays, isWritten: round % 2 == 0)) { quantization in
        var integers = Session.tensor(codes, [1, 2, 6, 32])
        integers.precision = chance(3) ? 4 : 8
        integers = spoiled(integers, one: 6)
        integers.buffer = codes
        integers.quantization = quantization
        if round % 2 == 0 {
          var desc = mfa_quantize_desc()
          desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
          desc.flags = chance(20) ? 16 : .random(in: 0..<16, using: &generator)
          (desc.source, desc.destination) = (spoiled(source, one: 6), integers)
          check(session, withUnsafePointer(to: desc) { mfa_quantize(session.context, $0) }, [codes], round)
        } else {
          var target = spoiled(real, one: 6)
          target.buffer = real.buffer
          let status = withUnsafePointer(to: integers) { from in
            withUnsafePointer(to: target) { mfa_dequantize(session.context, from, $0) }
          }
          check(session, status, [real.buffer], round)
        }
      }
    }
  }
}
