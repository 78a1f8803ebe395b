// Checked mode: one program for each thing that it finds, and its sound twin.
import Metal
import XCTest

final class CheckTests: XCTestCase {
  static let head = "#include <metal_stdlib>\nusing namespace metal;\n"

  func expect(
    _ kind: SoftwareMetal.Finding.Kind?, _ body: String, arguments: String = "", floats n: Int = 64, groups: Int = 1,
    threads: Int = 64, memory: [Int] = [], bound: Bool = true, line: UInt = #line
  ) throws {
    let h = try Harness()
    let source =
      Self.head
      + "kernel void k(device float *a [[buffer(0)]], \(arguments)uint t [[thread_index_in_threadgroup]], "
      + "uint g [[thread_position_in_grid]],\n"
      + "  uint l [[thread_index_in_simdgroup]], uint s [[simdgroup_index_in_threadgroup]], "
      + "uint b [[threadgroup_position_in_grid]]) {\n\(body)\n}"
    for schedule in [SoftwareMetal.Schedule.forward, .reversed, .seeded(7)] {
      SoftwareMetal.options.schedule = schedule
      defer { SoftwareMetal.options.schedule = .forward }
      let f = try h.finding(
        source, "k", [bound ? h.buffer(of: Float.self, count: n) : nil], groups: groups, threads: threads,
        memory: memory)
      XCTAssertEqual(f?.kind, kind, "\(f?.description ?? "nothing found") (\(schedule))", line: line)
      if let f { XCTAssertEqual(f.line, 5, "\(f)", line: line) }
    }
  }
  func testBounds() throws {
    try expect(nil, "a[t] = t;")
    try expect(.outOfBounds, "a[t + 1] = t;")
    try expect(.outOfBounds, "if (t == 0) a[0] = a[int(t) - 1];")
    try expect(.outOfBounds, "a[0] = ((device uchar *)a)[256 + t];", threads: 1)
    try expect(.outOfBounds, "*(device packed_float4 *)(a + 61) = packed_float4(1.0f);", threads: 1)
    try expect(.outOfBounds, "threadgroup float x[8]; x[t] = 1;", threads: 9)
    try expect(.outOfBounds, "threadgroup uchar x[5]; x[t] = 1;", threads: 6)
    try expect(.outOfBounds, "m[t + 60] = 1;", arguments: "threadgroup float *m [[threadgroup(0)]], ", memory: [256])
    try expect(.outOfBounds, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a + 1, 8);", threads: 32)
    try expect(nil, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8);", threads: 32)
  }
  func testOffsetsShortenBuffers() throws {
    let h = try Harness(),
      p = try h.pipeline(
        Self.head + "kernel void k(device float *a, uint t [[thread_position_in_grid]]) { a[t] = t; }", "k")
    for (offset, fails) in [(0, false), (4, true)] {
      let c = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(c.makeComputeCommandEncoder())
      e.setComputePipelineState(p)
      e.setBuffer(try h.buffer(of: Float.self, count: 32), offset: offset, index: 0)
      e.dispatchThreads(MTLSizeMake(32, 1, 1), threadsPerThreadgroup: MTLSizeMake(32, 1, 1))
      e.endEncoding()
      c.commit()
      c.waitUntilCompleted()
      let f = (c.error as? MTLCommandBufferError)?.finding
      XCTAssertEqual(c.status, fails ? .error : .completed)
      XCTAssertEqual(f?.kind, fails ? .outOfBounds : nil)
      if fails { XCTAssertEqual([f?.buffer, f?.lane, f?.threadInThreadgroup.width], [0, 31, 31]) }
    }
  }
  func testUninitializedThreadgroupMemory() throws {
    try expect(
      .uninitializedThreadgroupMemory,
      "threadgroup float x[64]; if (t < 63) x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[t];")
    try expect(
      nil, "threadgroup float x[64]; x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[63 - t];")
    try expect(
      .uninitializedThreadgroupMemory,
      "threadgroup half x[64]; if (t != 9) x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[t];")
    // what another threadgroup left behind does not count
    try expect(
      .uninitializedThreadgroupMemory,
      "threadgroup float x[64]; if (b == 0) x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); "
        + "a[t + 64 * b] = x[t];",
      floats: 128, groups: 2)
    try expect(
      .uninitializedThreadgroupMemory, "simdgroup_float8x8 m; simdgroup_load(m, x, 8); simdgroup_store(m, a, 8);",
      arguments: "threadgroup float *x [[threadgroup(0)]], ", threads: 32, memory: [256])
  }
  func testThreadgroupRaces() throws {
    try expect(.race, "threadgroup float x[64]; x[t] = t; threadgroup_barrier(mem_flags::mem_none); a[t] = x[t ^ 33];")
    try expect(
      .race, "threadgroup float x[64]; x[t] = t; threadgroup_barrier(mem_flags::mem_device); a[t] = x[t ^ 33];")
    try expect(
      .race,
      "threadgroup float x[64]; x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[t ^ 1]; x[t] = 0;")
    try expect(.race, "threadgroup float x[1]; x[0] = t;")
    try expect(
      nil, "threadgroup float x[64]; x[t] = t; simdgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[t ^ 1];")
    try expect(
      .race,
      "threadgroup float x[64]; x[t] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); x[t] = t; "
        + "simdgroup_barrier(mem_flags::mem_threadgroup); a[t] = x[t ^ 32];",
      threads: 64)
    // Neighbours in one word are no race.
    try expect(nil, "threadgroup uchar x[64]; x[t] = t; x[t] += 1; a[t] = x[t];")
    try expect(
      .race, "threadgroup uchar x[64]; x[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); x[t / 2] = 1;")
  }
  /// Each lane loads and stores its own two elements of a matrix: a barrier alone orders it with the other lanes.
  func testMatrixOperationsRaceLaneByLane() throws {
    let barrier = "simdgroup_barrier(mem_flags::mem_threadgroup); "
    for type in ["float", "half", "bfloat"] {
      let head =
        "threadgroup \(type) x[80]; x[t] = \(type)(float(t)); x[t + 32] = x[t]; if (t < 16) x[t + 64] = x[t]; "
        + "\(barrier)simdgroup_matrix<\(type), 8, 8> m, n; "
      let tail = barrier + "a[t] = float(x[t]);"
      func expect(_ kind: SoftwareMetal.Finding.Kind?, _ body: String, line: UInt = #line) throws {
        try self.expect(kind, head + body + tail, threads: 32, line: line)
      }
      let (load, store) = ("simdgroup_load(m, x, 8); ", "simdgroup_store(m, x, 8); ")
      let (across, storeAcross) = ("simdgroup_load(m, x, 8, 0, true); ", "simdgroup_store(m, x, 8, 0, true); ")
      try expect(nil, load + store)
      try expect(nil, across + storeAcross)
      try expect(nil, store + load + store)
      try expect(nil, across + load)
      try expect(.race, across + store)
      try expect(.race, load + storeAcross)
      try expect(.race, store + across)
      try expect(.race, across + load + store)
      try expect(nil, across + barrier + store)
      try expect(nil, store + barrier + across)
      try expect(.race, across + "simdgroup_barrier(mem_flags::mem_device); " + store)
      try expect(.race, load + "simdgroup_store(m, x + 2, 8); ")
      try expect(.race, load + "simdgroup_store(m, x, 9); ")
      // What a thread does itself is another matter than its lane of an operation.
      try expect(.race, load + "x[t] = \(type)(1.0f); ")
      try expect(.race, "x[t] = \(type)(1.0f); " + load)
    }
    try expect(
      .race, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8); simdgroup_load(m, a, 8, 0, true);", threads: 32)
    try expect(nil, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8); simdgroup_load(m, a, 8);", threads: 32)
    try expect(
      nil,
      "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8); simdgroup_barrier(mem_flags::mem_device); "
        + "simdgroup_load(m, a, 8, 0, true);", threads: 32)
  }
  /// A load sees what its lane has stored, whoever arrives first.
  func testMatrixLoadsFollowStores() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 64)
    let source =
      Self.head + """
        kernel void k(device float *o [[buffer(0)]], ushort l [[thread_index_in_simdgroup]]) {
          threadgroup float x[64];
          x[l] = x[l + 32] = 1;
          simdgroup_barrier(mem_flags::mem_threadgroup);
          simdgroup_float8x8 m, n;
          m.thread_elements()[0] = 2 * l;
          m.thread_elements()[1] = 2 * l + 1;
          simdgroup_store(m, x, 8);
          simdgroup_load(n, x, 8);
          o[2 * l] = n.thread_elements()[0];
          o[2 * l + 1] = n.thread_elements()[1];
        }
        """
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      _ = try h.run(h.pipeline(source, "k", mode: mode), [out], groups: 1, threads: 32)
      XCTAssertEqual(out.array(of: Float.self), (0..<64).map(Float.init), "\(mode)")
    }
  }
  func testDeviceRaces() throws {
    try expect(.race, "a[t / 2] = t;")
    try expect(.race, "a[g % 64] = b;", groups: 2)
    try expect(.race, "if (b == 0) a[t] = 1; else a[64 + t] = a[t];", floats: 128, groups: 2)
    try expect(nil, "a[64 + t] = a[t] + a[t ^ 1];", floats: 128)
    try expect(.race, "a[t] = t; threadgroup_barrier(mem_flags::mem_threadgroup); a[64 + t] = a[t ^ 32];", floats: 128)
    try expect(nil, "a[t] = t; threadgroup_barrier(mem_flags::mem_device); a[64 + t] = a[t ^ 32];", floats: 128)
    try expect(nil, "((device uchar *)a)[t] = t;")
    try expect(
      .race,
      "device atomic_float *f = (device atomic_float *)a; atomic_fetch_add_explicit(f, 1.0f, memory_order_relaxed); "
        + "a[1] = a[0] + b;",
      groups: 2)
    try expect(nil, "atomic_fetch_add_explicit((device atomic_float *)a, 1.0f, memory_order_relaxed);", groups: 4)
  }
  func testDivergence() throws {
    try expect(
      .divergence,
      "if (t < 32) threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = 1; if (t >= 32) a[t] = simd_sum(1.0f) "
        + "+ (t == 63 ? 0 : simd_sum(2.0f));"
    )
    try expect(.divergence, "if (l < 16) threadgroup_barrier(mem_flags::mem_threadgroup); a[t] = 1;")
    try expect(.divergence, "if (l < 16) a[t] = simd_sum(1.0f);")
    try expect(.divergence, "if (l == 3) return; a[t] = simd_sum(1.0f);")
    try expect(.divergence, "a[t] = l < 16 ? simd_sum(1.0f) : simd_shuffle(1.0f, 0);")
    try expect(nil, "if (s == 1) return; a[t] = simd_sum(1.0f); threadgroup_barrier(mem_flags::mem_threadgroup);")
    try expect(
      .divergence,
      "simdgroup_float8x8 m(1.0f), n(2.0f); if (l < 16) simdgroup_multiply(m, m, n); else simdgroup_multiply(m, n, "
        + "m); simdgroup_store(m, a, 8);",
      threads: 32)
    try expect(
      .divergence, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a + 8 * (l / 31), 8);", floats: 80, threads: 32)
    try expect(.divergence, "simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8);", threads: 16)
  }
  func testBarriersOfDifferentBranches() throws {
    let h = try Harness(), b = "threadgroup_barrier(mem_flags::mem_threadgroup);"
    let source =
      Self.head
      + "kernel void k(device float *a [[buffer(0)]], uint s [[simdgroup_index_in_threadgroup]]) {\n  if (s == 0)\n   "
      + " \(b)\n  else\n    \(b)\n  a[s] = s;\n}"
    let f = try XCTUnwrap(h.finding(source, "k", [h.buffer(of: Float.self, count: 64)], threads: 64))
    XCTAssertEqual(f.kind, .divergence)
    XCTAssertTrue(f.message.contains("lines 5 and 7"), f.message)
  }
  func testMisalignment() throws {
    try expect(.misaligned, "a[0] = ((device float4 *)(a + 1))->x;", threads: 1)
    try expect(.misaligned, "*(device float *)((device uchar *)a + 2) = 1;", threads: 1)
    try expect(
      .misaligned,
      "threadgroup uchar x[64]; x[t] = 1; simdgroup_barrier(mem_flags::mem_threadgroup); "
        + "a[0] = *(threadgroup half *)(x + 1);",
      threads: 1)
    try expect(nil, "packed_float4 p = *(device packed_float4 *)(a + 1); a[0] = p.x;", threads: 1)
  }
  func testUnboundBuffer() throws {
    try expect(.unboundBuffer, "a[t] = 1;", bound: false)
    try expect(nil, "if (t > 64) a[t] = 1;", bound: false)
  }
  func testFindingsNameThePlace() throws {
    let h = try Harness(),
      source =
        Self.head
        + "kernel void place(device float *a [[buffer(3)]],\n uint2 g [[thread_position_in_grid]]) {\n  if (g.y == 5 "
        + "&& g.x == 33)\n    a[64] = 1;\n}"
    let c = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(c.makeComputeCommandEncoder())
    e.setComputePipelineState(try h.pipeline(source, "place"))
    e.setBuffer(try h.buffer(of: Float.self, count: 64), offset: 0, index: 3)
    e.dispatchThreads(MTLSizeMake(64, 6, 1), threadsPerThreadgroup: MTLSizeMake(64, 2, 1))
    e.endEncoding()
    c.commit()
    c.waitUntilCompleted()
    let f = try XCTUnwrap((c.error as? MTLCommandBufferError)?.finding)
    XCTAssertEqual([f.line, f.buffer, f.simdgroup, f.lane], [6, 3, 3, 1])
    XCTAssertEqual([f.threadgroup, f.threadInThreadgroup], [MTLSizeMake(0, 2, 0), MTLSizeMake(33, 1, 0)])
    XCTAssertEqual(f.kernel, "place")
  }
}
