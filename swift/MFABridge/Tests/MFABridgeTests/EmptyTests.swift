import CMFA
import TestSupport
import XCTest

/// Size 0 in any dimension but the head dimension of V: results without elements, and zeros in those that have some.
final class EmptyTests: GPUTestCase {
  private struct Sizes {
    var batch = 2, heads = 4, keyHeads = 2, rows = 3, keys = 5, columns = 8
    var name: String {
      "batch \(batch), heads \(heads) and \(keyHeads), rows \(rows), keys \(keys), columns \(columns)"
    }
  }

  private var cases: [Sizes] {
    var result: [Sizes] = []
    for edit: (inout Sizes) -> Void in [
      { $0.batch = 0 }, { $0.heads = 0 }, { ($0.heads, $0.keyHeads) = (0, 0) }, { $0.rows = 0 }, { $0.keys = 0 },
      { $0.columns = 0 },
      { ($0.batch, $0.rows) = (0, 0) }, { ($0.rows, $0.columns) = (0, 0) }, { ($0.keys, $0.columns) = (0, 0) },
      { ($0.batch, $0.rows, $0.keys) = (1 << 40, 0, 0) },
    ] {
      var sizes = Sizes()
      edit(&sizes)
      result.append(sizes)
    }
    return result
  }

  private func tensor(_ session: Session, _ sizes: [Int], fill byte: UInt8 = 0) throws -> mfa_tensor {
    let shape = sizes.map(UInt64.init)
    let count = sizes.contains(0) ? 0 : sizes.reduce(1, *)
    let buffer = try session.buffer(4 * count)
    if count > 0 { session.fill(buffer, byte) }
    return Session.tensor(buffer, shape)
  }

  private func floats(_ session: Session, _ tensor: mfa_tensor) -> [Float] {
    Array(session.bytes(tensor.buffer!).bindMemory(to: Float.self))
  }

  func testForwardAndBackward() throws {
    let session = try Session()
    for sizes in cases {
      for masked in [false, true] {
        var forward = mfa_forward_desc()
        forward.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
        forward.query = try tensor(session, [sizes.batch, sizes.heads, sizes.rows, sizes.columns])
        forward.key = try tensor(session, [sizes.batch, sizes.keyHeads, sizes.keys, sizes.columns])
        forward.value = try tensor(session, [sizes.batch, sizes.keyHeads, sizes.keys, 8])
        let value = session.bytes(forward.value.buffer!)
        for i in 0..<value.count / 4 {
          value.storeBytes(of: Float(i / 8 % max(sizes.keys, 1)), toByteOffset: 4 * i, as: Float.self)
        }
        forward.output = try tensor(session, [sizes.batch, sizes.heads, sizes.rows, 8], fill: 0xA5)
        forward.logsumexp = try tensor(session, [sizes.batch, sizes.heads, sizes.rows, 1], fill: 0xA5)
        var options = mfa_attention_options()
        options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
        if masked {
          options.mask = try tensor(session, [1, 1, min(sizes.rows, 1), min(sizes.keys, 1)])
          options.sinks = try tensor(session, [1, sizes.heads, 1, 1])
        }
        var backward = mfa_backward_desc()
        backward.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
        (backward.query, backward.key, backward.value) = (forward.query, forward.key, forward.value)
        (backward.grad_output, backward.logsumexp) = (
          try tensor(session, [sizes.batch, sizes.heads, sizes.rows, 8]), forward.logsumexp
        )
        backward.grad_query = try tensor(session, [sizes.batch, sizes.heads, sizes.rows, sizes.columns], fill: 0xA5)
        backward.grad_key = try tensor(session, [sizes.batch, sizes.keyHeads, sizes.keys, sizes.columns], fill: 0xA5)
        backward.grad_value = try tensor(session, [sizes.batch, sizes.keyHeads, sizes.keys, 8], fill: 0xA5)
        if masked {
          backward.grad_mask = try tensor(session, [1, 1, min(sizes.rows, 1), min(sizes.keys, 1)], fill: 0xA5)
          backward.grad_sinks = try tensor(session, [1, sizes.heads, 1, 1], fill: 0xA5)
        }
        let statuses = withUnsafePointer(to: options) { options in
          (forward.options, backward.options) = (options, options)
          return [session.forward(forward), withUnsafePointer(to: backward) { mfa_backward(session.context, $0) }]
        }
        let name = "\(sizes.name), masked \(masked): \(Session.message)"
        XCTAssertEqual(statuses, [0, 0], name)
        // Scores are 0: the mean of 0 ... keys - 1, with a sink of score 0 beside them.
        let total = Float(sizes.keys + (masked ? 1 : 0))
        let mean = sizes.keys == 0 ? 0 : Float(sizes.keys * (sizes.keys - 1)) / 2 / total
        XCTAssert(floats(session, forward.output).allSatisfy { abs($0 - mean) < 1e-5 }, name)
        XCTAssert(
          floats(session, forward.logsumexp).allSatisfy { total == 0 ? $0 == -.infinity : abs($0 - log(total)) < 1e-5 },
          name)
        for gradient in [
          backward.grad_query, backward.grad_key, backward.grad_value, backward.grad_mask, backward.grad_sinks,
        ] {
          if gradient.buffer != nil { XCTAssert(floats(session, gradient).allSatisfy { $0 == 0 }, name) }
        }
      }
    }
  }

  /// Nothing is rounded at once, however often.
  func testQuantization() throws {
    let session = try Session()
    for shape: [UInt64] in [
      [1 << 40, 1, 1, 0], [1 << 31, 1 << 31, 0, 0], [0, 3, 1 << 40, 8], [2, 0, 3, 8], [1 << 20, 1 << 20, 1 << 20, 0],
      [1, 2, 0, 8],
    ] {
      for granularity: Int32 in 0..<4 {
        for smooth in [false, true] {
          var quantization = mfa_quantization()
          quantization.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
          (quantization.granularity, quantization.block_rows) = (granularity, granularity >= 2 ? 4 : 0)
          let scales = try session.buffer(64), mean = try session.buffer(64)
          session.fill(mean, 0xA5)
          quantization.scale_buffer = scales
          if smooth { quantization.mean_buffer = mean }
          var desc = mfa_quantize_desc()
          desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
          desc.flags = smooth ? UInt32(MFA_QUANTIZE_SMOOTH.rawValue) : 0
          (desc.source, desc.destination) = (Session.tensor(scales, shape), Session.tensor(scales, shape))
          (desc.source.buffer, desc.destination.buffer) = (try session.buffer(0), try session.buffer(0))
          desc.destination.precision = 8
          let status = withUnsafePointer(to: quantization) { quantization in
            desc.destination.quantization = quantization
            let status = withUnsafePointer(to: desc) { mfa_quantize(session.context, $0) }
            let back = withUnsafePointer(to: desc.destination) { from in
              withUnsafePointer(to: desc.source) { mfa_dequantize(session.context, from, $0) }
            }
            XCTAssert([0, 5, 6].contains(back), "\(back)")
            return status
          }
          // Scales of blocks of no columns need memory, which is not there.
          XCTAssert(
            status == 0 || status == 5 && granularity == 2 && shape[3] == 0 && Session.message.contains("are needed"),
            "\(shape), granularity \(granularity): \(Session.message)")
          if status != 0 { continue }
          if granularity == 0 { XCTAssertEqual(session.bytes(scales).load(as: Float.self), 1) }
          let means = smooth && shape[2] == 0 && shape[3] > 0
          XCTAssertEqual(session.bytes(mean).load(as: Float.self) == 0, means, "\(shape)")
        }
      }
    }
  }
}
