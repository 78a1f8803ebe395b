// The host side: asynchronous execution, errors, events, blits, caller's memory, reflection.
import Metal
import XCTest

final class APITests: XCTestCase {
  static let source =
    "using namespace metal;\nkernel void twice(device float *a [[buffer(0)]], constant float &f [[buffer(1)]], "
    + "uint t [[thread_position_in_grid]]) { a[t] *= f; }"

  func testCommandBuffersRunInOrderWithHandlersAndTimes() throws {
    let h = try Harness(), a = try h.buffer([Float](repeating: 1, count: 32)), p = try h.pipeline(Self.source, "twice")
    let calls = NSMutableArray(), lock = NSLock()
    var buffers: [any MTLCommandBuffer] = []
    for i in 0..<5 {
      let c = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(c.makeComputeCommandEncoder())
      XCTAssertEqual(c.status, .notEnqueued)
      e.setComputePipelineState(p)
      e.setBuffer(a, offset: 0, index: 0)
      var f = Float(i + 1)
      e.setBytes(&f, length: 4, index: 1)
      e.dispatchThreadgroups(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(32, 1, 1))
      e.endEncoding()
      nonisolated(unsafe) let list = calls
      c.addScheduledHandler { _ in lock.withLock { list.add("scheduled \(i)") } }
      c.addCompletedHandler { b in lock.withLock { list.add("completed \(i) \(b.status == .completed)") } }
      buffers.append(c)
    }
    buffers[1].enqueue()  // the order is that of enqueue, not of commit
    for c in buffers.reversed() { c.commit() }
    for c in buffers { c.waitUntilCompleted() }
    XCTAssertEqual(a.array(of: Float.self), [Float](repeating: 120, count: 32))
    XCTAssertEqual(calls.count, 10)
    XCTAssertEqual(calls[0] as? String, "scheduled 1")
    for c in buffers {
      XCTAssertEqual(c.status, .completed)
      XCTAssertGreaterThan(c.gpuEndTime, c.gpuStartTime)
      XCTAssertGreaterThanOrEqual(c.gpuStartTime, c.kernelStartTime)
    }
  }
  func testMisuseBecomesTheError() throws {
    let h = try Harness(), p = try h.pipeline(Self.source, "twice"), b = try h.buffer([Float(1)])
    let dynamic = try h.pipeline(
      "kernel void k(device float *a [[buffer(0)]], threadgroup float *shared [[threadgroup(1)]]) { a[0] = 1; }", "k")
    let cases: [(String, (any MTLCommandBuffer, any MTLComputeCommandEncoder) -> Void)] = [
      ("index 31", { _, e in e.setBuffer(b, offset: 0, index: 31) }),
      ("offset 4", { _, e in e.setBuffer(b, offset: 4, index: 0) }),
      ("length 5000", { _, e in e.setBytes(b.contents(), length: 5000, index: 0) }),
      (
        "no compute pipeline",
        { _, e in e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(1, 1, 1)) }
      ),
      (
        "threads per threadgroup",
        { _, e in
          e.setComputePipelineState(p);
          e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(2048, 1, 1))
        }
      ),
      (
        "threads per threadgroup",
        { _, e in
          e.setComputePipelineState(p);
          e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(0, 1, 1))
        }
      ),
      (
        "threadgroup memory",
        { _, e in
          e.setComputePipelineState(p); e.setThreadgroupMemoryLength(65536, index: 0);
          e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(1, 1, 1))
        }
      ),
      (
        "missing threadgroup memory at index 1 for 'shared'",
        { _, e in
          e.setComputePipelineState(dynamic); e.setThreadgroupMemoryLength(16, index: 0);
          e.setBuffer(b, offset: 0, index: 0);
          e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(1, 1, 1))
        }
      ),
      ("multiple of 16", { _, e in e.setThreadgroupMemoryLength(10, index: 0) }),
      ("still encoding", { c, _ in _ = c.makeComputeCommandEncoder() }),
      (
        "after endEncoding",
        { _, e in
          e.endEncoding(); e.setComputePipelineState(p);
          e.dispatchThreads(MTLSizeMake(1, 1, 1), threadsPerThreadgroup: MTLSizeMake(1, 1, 1))
        }
      ),
    ]
    for (text, act) in cases {
      let c = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(c.makeComputeCommandEncoder())
      act(c, e)
      e.endEncoding()
      c.commit()
      c.waitUntilCompleted()
      XCTAssertEqual(c.status, .error)
      XCTAssertTrue("\(try XCTUnwrap(c.error))".contains(text), "\(text): \(c.error!)")
    }
  }
  func testEventsOrderQueues() throws {
    let h = try Harness(), other = try XCTUnwrap(h.device.makeCommandQueue()),
      event = try XCTUnwrap(h.device.makeSharedEvent())
    let a = try h.buffer([UInt8](repeating: 0, count: 16))
    let first = try XCTUnwrap(h.queue.makeCommandBuffer()), second = try XCTUnwrap(other.makeCommandBuffer())
    second.encodeWaitForEvent(event, value: 1)
    let blit2 = try XCTUnwrap(second.makeBlitCommandEncoder())
    blit2.copy(from: a, sourceOffset: 0, to: a, destinationOffset: 8, size: 4)
    blit2.endEncoding()
    second.commit()
    let blit1 = try XCTUnwrap(first.makeBlitCommandEncoder())
    blit1.fill(buffer: a, range: 0..<4, value: 7)
    blit1.endEncoding()
    first.encodeSignalEvent(event, value: 1)
    first.commit()
    second.waitUntilCompleted()
    XCTAssertEqual(a.array(of: UInt8.self), [7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0])
    XCTAssertTrue(event.wait(untilSignaledValue: 1, timeoutMS: 10))
    XCTAssertFalse(event.wait(untilSignaledValue: 2, timeoutMS: 10))
  }
  func testCallersMemory() throws {
    let h = try Harness(), page = Int(getpagesize()),
      memory = UnsafeMutableRawPointer.allocate(byteCount: page, alignment: page)
    memory.initializeMemory(as: Float.self, repeating: 2, count: page / 4)
    let freed = expectation(description: "deallocator")
    XCTAssertNil(h.device.makeBuffer(bytesNoCopy: memory + 4, length: page, options: []))
    XCTAssertNil(h.device.makeBuffer(bytesNoCopy: memory, length: page - 4, options: []))
    do {
      var b = h.device.makeBuffer(bytesNoCopy: memory, length: page, options: .storageModeShared) { p, n in
        XCTAssertEqual(p, memory)
        XCTAssertEqual(n, page)
        freed.fulfill()
      }
      _ = try h.run(h.pipeline(Self.source, "twice"), [b, h.buffer([Float(3)])], groups: 1, threads: 64)
      XCTAssertEqual(memory.load(fromByteOffset: 4 * 63, as: Float.self), 6)
      XCTAssertEqual(memory.load(fromByteOffset: 4 * 64, as: Float.self), 2)
      b = nil
    }
    wait(for: [freed], timeout: 5)
    memory.deallocate()
  }
  /// The host sees nothing of private storage; kernels and blits do.
  func testPrivateStorage() throws {
    let h = try Harness(), shared = try h.buffer([Float](repeating: 3, count: 32))
    let hidden = try XCTUnwrap(
      h.device.makeBuffer(length: 128, options: [.storageModePrivate, .hazardTrackingModeUntracked]))
    XCTAssertEqual(hidden.storageMode, .private)
    XCTAssertEqual(hidden.hazardTrackingMode, .untracked)
    let c = try XCTUnwrap(h.queue.makeCommandBuffer())
    func copy(_ from: any MTLBuffer, _ to: any MTLBuffer) throws {
      let blit = try XCTUnwrap(c.makeBlitCommandEncoder())
      blit.copy(from: from, sourceOffset: 0, to: to, destinationOffset: 0, size: 128)
      blit.endEncoding()
    }
    try copy(shared, hidden)
    let e = try XCTUnwrap(c.makeComputeCommandEncoder())
    e.setComputePipelineState(try h.pipeline(Self.source, "twice"))
    e.setBuffer(hidden, offset: 0, index: 0)
    e.setBuffer(try h.buffer([Float(2)]), offset: 0, index: 1)
    e.dispatchThreads(MTLSizeMake(32, 1, 1), threadsPerThreadgroup: MTLSizeMake(32, 1, 1))
    e.endEncoding()
    try copy(hidden, shared)
    c.commit()
    c.waitUntilCompleted()
    XCTAssertNil(c.error)
    XCTAssertEqual(shared.array(of: Float.self), [Float](repeating: 6, count: 32))
    // An address that nobody may use, as Metal's NULL.
    XCTAssertLessThan(UInt(bitPattern: hidden.contents()), 4096)
  }
  func testIndirectDispatchAndReflection() throws {
    let h = try Harness(), a = try h.buffer([Float](repeating: 1, count: 64)),
      grid = try h.buffer([UInt32(0), 2, 1, 1])
    let d = MTLComputePipelineDescriptor()
    d.computeFunction = try h.library(Self.source).makeFunction(name: "twice")
    d.maxTotalThreadsPerThreadgroup = 64
    var reflection: MTLComputePipelineReflection?
    let p = try h.device.makeComputePipelineState(descriptor: d, options: .bindingInfo, reflection: &reflection)
    XCTAssertEqual(
      [p.maxTotalThreadsPerThreadgroup, p.threadExecutionWidth, p.staticThreadgroupMemoryLength], [64, 32, 0])
    XCTAssertEqual(reflection?.bindings.map(\.name), ["a", "f"])
    XCTAssertEqual(reflection?.bindings.map(\.access), [.readWrite, .readOnly])
    let c = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(c.makeComputeCommandEncoder())
    e.setComputePipelineState(p)
    e.setBuffer(a, offset: 0, index: 0)
    e.setBuffer(try h.buffer([Float(5)]), offset: 0, index: 1)
    e.dispatchThreadgroups(indirectBuffer: grid, indirectBufferOffset: 4, threadsPerThreadgroup: MTLSizeMake(16, 1, 1))
    e.endEncoding()
    c.commit()
    c.waitUntilCompleted()
    XCTAssertNil(c.error)
    XCTAssertEqual(a.array(of: Float.self), [Float](repeating: 5, count: 32) + [Float](repeating: 1, count: 32))
  }
  func testSeveralThreadsCompileAndRun() throws {
    let failures = Locker()
    DispatchQueue.concurrentPerform(iterations: 8) { i in
      do {
        let h = try Harness(), b = try h.buffer([Float(i)])
        let p = try h.device.makeComputePipelineState(
          function: XCTUnwrap(
            h.device.makeLibrary(source: "kernel void k(device float *a) { a[0] += \(i % 4); }", options: nil)
              .makeFunction(name: "k")))
        for _ in 0..<5 { _ = try h.run(p, [b], groups: 1, threads: 1) }
        if b.array(of: Float.self) != [Float(i + 5 * (i % 4))] { failures.add("\(i)") }
      } catch { failures.add("\(error)") }
    }
    XCTAssertEqual(failures.all, [])
  }
  func testDevice() throws {
    let d = try XCTUnwrap(MTLCreateSystemDefaultDevice())
    XCTAssertTrue(d.supportsFamily(.apple7) && d.supportsFamily(.metal3) && d.supportsFamily(.mac2))
    XCTAssertEqual(d.maxThreadgroupMemoryLength, 32768)
    XCTAssertNil(d.makeBuffer(length: 0))
    let before = d.currentAllocatedSize
    do { let b = d.makeBuffer(length: 1 << 20); XCTAssertEqual(d.currentAllocatedSize, before + 1 << 20); _ = b }
    XCTAssertEqual(d.currentAllocatedSize, before)
  }
  /// Programs look for the chip in the device's name.
  func testDeviceIsNamedAsApples() throws {
    let d = try XCTUnwrap(MTLCreateSystemDefaultDevice())
    defer { SoftwareMetal.options.chip = nil; SoftwareMetal.options.family = .apple9 }
    XCTAssertEqual([d.name, d.architecture.name], ["Apple M3", "applegpu_g15g"])
    for (chip, family, architecture) in [
      ("M1", MTLGPUFamily.apple7, "applegpu_g13g"), ("M2 Max", .apple8, "applegpu_g14c"),
      ("M4 Pro", .apple9, "applegpu_g16s"), ("M3 Ultra", .apple9, "applegpu_g15d"),
    ] {
      SoftwareMetal.options.chip = chip
      XCTAssertEqual([d.name, d.architecture.name], ["Apple \(chip)", architecture])
      XCTAssertTrue(d.supportsFamily(family))
      XCTAssertFalse(d.supportsFamily(try XCTUnwrap(MTLGPUFamily(rawValue: family.rawValue + 1))))
    }
    SoftwareMetal.options.chip = nil
    for (family, name) in [(MTLGPUFamily.apple7, "Apple M1"), (.apple8, "Apple M2"), (.apple9, "Apple M3")] {
      SoftwareMetal.options.family = family
      XCTAssertEqual(d.name, name)
    }
    SoftwareMetal.options.chip = "G5"
    XCTAssertEqual(d.name, "Apple M3", "no such chip")
    XCTAssertGreaterThan(d.registryID, 1 << 32)
    XCTAssertEqual(d.location, .builtIn)
    XCTAssertEqual(d.maxThreadsPerThreadgroup, MTLSizeMake(1024, 1024, 1024))
    XCTAssertFalse(d.isHeadless || d.isRemovable || d.isLowPower)
  }
  final class Locker: @unchecked Sendable {  // every access holds the lock
    private let lock = NSLock()
    private var list: [String] = []
    func add(_ s: String) { lock.withLock { list.append(s) } }
    var all: [String] { lock.withLock { list } }
  }
}
