import Metal
import TestSupport
import XCTest

@testable import MetalAttention

/// Buffers of which the host sees nothing, or whose use Metal does not track, as other frameworks have them.
final class StorageTests: GPUTestCase {
  private static let shape = [1, 2, 24, 16], count = 2 * 24 * 16

  private func device() throws -> any MTLDevice { try XCTUnwrap(AttentionDevice.all().first).metal }

  private func buffer(_ options: MTLResourceOptions, bytes: Int = 4 * count) throws -> any MTLBuffer {
    try XCTUnwrap(device().makeBuffer(length: bytes, options: options))
  }

  private func copy(_ from: any MTLBuffer, _ to: any MTLBuffer) throws {
    let commands = try XCTUnwrap(device().makeCommandQueue()?.makeCommandBuffer())
    let blit = try XCTUnwrap(commands.makeBlitCommandEncoder())
    blit.copy(from: from, sourceOffset: 0, to: to, destinationOffset: 0, size: from.length)
    blit.endEncoding()
    commands.commit()
    commands.waitUntilCompleted()
    XCTAssertNil(commands.error)
  }

  /// A buffer of numbers that depend on `seed`.
  private func numbers(_ options: MTLResourceOptions, seed: Int) throws -> any MTLBuffer {
    let shared = try buffer(.storageModeShared), result = try buffer(options)
    for i in 0..<Self.count {
      shared.contents().storeBytes(of: sin(Float(i * seed + seed)), toByteOffset: 4 * i, as: Float.self)
    }
    try copy(shared, result)
    return result
  }

  private func read(_ buffer: any MTLBuffer) throws -> [Float] {
    let shared = try self.buffer(.storageModeShared, bytes: buffer.length)
    try copy(buffer, shared)
    return Array(
      UnsafeRawBufferPointer(start: shared.contents(), count: buffer.length).bindMemory(to: Float.self))
  }

  /// Forward and backward give what they give on shared buffers, to the bit: operands and results may be private.
  func testPrivateAndUntracked() throws {
    let kinds: [MTLResourceOptions] = [
      .storageModeShared, .storageModePrivate, [.storageModePrivate, .hazardTrackingModeUntracked],
      [.storageModeShared, .hazardTrackingModeUntracked],
    ]
    var results: [[[Float]]] = []
    for kind in kinds {
      let attention = try QuantizedAttention(device: device())
      func tensor(_ seed: Int) throws -> AttentionTensor {
        AttentionTensor(try numbers(kind, seed: seed), shape: Self.shape)
      }
      func rows() throws -> AttentionTensor { AttentionTensor(try buffer(kind, bytes: 4 * 48), shape: [1, 2, 24, 1]) }
      let mask = AttentionTensor(try buffer(kind, bytes: 4 * 24 * 24), shape: [1, 1, 24, 24])
      var descriptor = AttentionDescriptor()
      descriptor.mask = mask
      let (q, k, v, o, l) = (try tensor(1), try tensor(2), try tensor(3), try tensor(4), try rows())
      let commands = try attention.forward(query: q, key: k, value: v, output: o, logsumexp: l, descriptor: descriptor)
      // D is written by one kernel and read by the next.
      let (dQ, dK, dV, d) = (try tensor(5), try tensor(6), try tensor(7), try rows())
      try attention.encodeBackward(
        query: q, key: k, value: v, gradOutput: tensor(8), logsumexp: l,
        gradients: AttentionGradients(query: dQ, key: dK, value: dV, dValues: d), descriptor: descriptor, into: commands
      )
      commands.commit()
      commands.waitUntilCompleted()
      XCTAssertNil(commands.error)
      results.append(try [o, l, dQ, dK, dV, d].map { try read(XCTUnwrap($0.buffer)) })
    }
    for other in results.dropFirst() { XCTAssertEqual(results[0], other) }
    XCTAssertTrue(results[0].allSatisfy { $0.contains { $0 != 0 } })
  }

  /// What the host reads cannot be private, and is refused by name.
  func testWhatTheHostReads() throws {
    let attention = try QuantizedAttention(device: device())
    let hidden = try buffer(.storageModePrivate)
    let plain = AttentionTensor(try numbers(.storageModeShared, seed: 1), shape: Self.shape)
    func expect(_ word: String, _ work: () throws -> Void) {
      XCTAssertThrowsError(try work()) { error in
        XCTAssertEqual((error as? AttentionError)?.status, .unsupported, "\(error)")
        XCTAssertTrue("\(error)".contains(word) && "\(error)".contains("private to the device"), "\(error)")
      }
    }
    var packed = AttentionDescriptor()
    packed.packedSequences = .init(count: 1, cumulativeQueryLengths: hidden, cumulativeKeyLengths: hidden)
    expect("cu_seqlens_q") {
      let output = AttentionTensor(try buffer(.storageModeShared), shape: Self.shape)
      _ = try attention.forward(query: plain, key: plain, value: plain, output: output, descriptor: packed)
    }
    for zeroPoints in [false, true] {
      var quantization = QuantizationParameters(precision: .INT8, shape: Self.shape)
      quantization.scales = .init(zeroPoints ? try numbers(.storageModeShared, seed: 1) : hidden)
      if zeroPoints { quantization.zeroPoints = .init(hidden, bytesPerElement: 4) }
      let key = AttentionTensor(try buffer(.storageModePrivate), quantization: quantization)
      expect(zeroPoints ? "zero_point_buffer" : "scale_buffer") {
        let output = AttentionTensor(try buffer(.storageModeShared), shape: Self.shape)
        _ = try attention.forward(query: plain, key: key, value: plain, output: output)
      }
    }
  }

  /// Wrapped as a caller of C does it.
  func testWrapping() throws {
    let device = try self.device()
    for mode in [MTLResourceOptions.storageModeShared, .storageModePrivate] {
      let wrapped = try AttentionBuffer(try buffer(mode), on: device)
      XCTAssertEqual(wrapped.size, 4 * Self.count)
      XCTAssertEqual(wrapped.contents == nil, mode == .storageModePrivate)
    }
    let memoryless = try buffer(.storageModeMemoryless)
    XCTAssertThrowsError(try AttentionBuffer(memoryless, on: device)) {
      XCTAssertEqual(($0 as? AttentionError)?.status, .unsupported)
      XCTAssertTrue("\($0)".contains("storage mode is 3"), "\($0)")
    }
  }
}
