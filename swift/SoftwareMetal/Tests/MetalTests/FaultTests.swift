// `asApple`: faults as they are on Apple's GPUs, where a program goes on. What was found is told.
import Metal
import XCTest

final class FaultTests: XCTestCase {
  static let head = "#include <metal_stdlib>\nusing namespace metal;\n"

  override func tearDown() { SoftwareMetal.options.asApple = false }

  /// What a kernel of one SIMD group leaves in its buffers of floats (`a`, `b`), and what it was found to do.
  private func run(
    _ body: String, a: [Float]?, b: [Float], memory: [Int] = []
  ) throws -> (a: [Float], b: [Float], found: [SoftwareMetal.Finding]) {
    let h = try Harness(), first = try a.map { try h.buffer($0) }, second = try h.buffer(b)
    let source =
      Self.head + """
        struct Four { float x, y, z, w; };
        kernel void k(device float *a [[buffer(0)]], device float *b [[buffer(1)]],
                      threadgroup float *m [[threadgroup(0)]], uint t [[thread_index_in_threadgroup]]) {
        \(body)
        }
        """
    SoftwareMetal.options.asApple = true
    let commands = try h.run(
      h.pipeline(source, "k"), [first, second], groups: MTLSizeMake(1, 1, 1), threads: MTLSizeMake(32, 1, 1),
      memory: [memory.first ?? 128])
    return (first?.array(of: Float.self) ?? [], second.array(of: Float.self), commands.softwareFindings)
  }
  private let ones = [Float](repeating: 1, count: 32)

  func testUnboundBuffers() throws {
    let read = try run("b[t] = a[t] + 2;", a: nil, b: ones)
    XCTAssertEqual(read.b, [Float](repeating: 2, count: 32), "zeros are read")
    XCTAssertEqual(read.found.map(\.kind), [.unboundBuffer])
    XCTAssertEqual([read.found[0].line, read.found[0].buffer], [6, 0])
    let written = try run("a[t] = 5; b[t] = a[31 - t];", a: nil, b: ones)
    XCTAssertEqual(written.b, [Float](repeating: 0, count: 32), "writes are dropped")
    XCTAssertEqual(Set(written.found.map(\.kind)), [.unboundBuffer])
  }
  func testOutOfBounds() throws {
    let a = (0..<16).map(Float.init)
    let read = try run("b[t] = a[t] + 1;", a: a, b: ones)
    XCTAssertEqual(read.b, (0..<32).map { $0 < 16 ? Float($0) + 1 : 1 })
    XCTAssertEqual(read.found.map(\.kind), [.outOfBounds])
    let written = try run("a[t] = 7; b[t + 31] = 3;", a: a, b: ones)
    XCTAssertEqual(written.a, [Float](repeating: 7, count: 16))
    XCTAssertEqual(written.b, [Float](repeating: 1, count: 31) + [3])
    XCTAssertEqual(Set(written.found.map(\.buffer)), [0, 1])
    // A vector and a struct that do not fit are zero as a whole.
    let vectors = try run(
      "packed_float4 v = ((device packed_float4 *)a)[t]; Four f = ((device Four *)a)[t]; b[t] = v[3] + f.w;", a: a,
      b: ones)
    XCTAssertEqual(vectors.b, (0..<32).map { $0 < 4 ? 2 * Float(4 * $0 + 3) : 0 })
    let copied = try run("if (t == 0) ((device Four *)b)[7] = ((device Four *)a)[4];", a: a, b: ones)
    XCTAssertEqual(copied.b, [Float](repeating: 1, count: 28) + [0, 0, 0, 0])
    let atomics = try run(
      "b[t] = atomic_fetch_add_explicit((device atomic_float *)a + 64, 1.0f, memory_order_relaxed) * 0 + 4;", a: a,
      b: ones)
    XCTAssertEqual(atomics.b, [Float](repeating: 4, count: 32))
  }
  func testThreadgroupMemory() throws {
    let result = try run(
      "m[t] = 2; m[t + 32] = 9; simdgroup_barrier(mem_flags::mem_threadgroup); b[t] = m[t] + m[t + 32];", a: ones,
      b: ones)
    XCTAssertEqual(result.b, [Float](repeating: 2, count: 32))
    XCTAssertEqual(Set(result.found.map(\.kind)), [.outOfBounds])
  }
  func testMatrices() throws {
    let a = (0..<36).map(Float.init)
    let read = try run(
      "simdgroup_float8x8 x; simdgroup_load(x, a, 8); simdgroup_store(x, b, 8);", a: a,
      b: [Float](repeating: 5, count: 64))
    XCTAssertEqual(read.b, (0..<64).map { $0 < 36 ? Float($0) : 0 })
    XCTAssertEqual(read.found.map(\.kind), [.outOfBounds])
    let written = try run("simdgroup_float8x8 x(1.0f); simdgroup_store(x, a, 8);", a: a, b: ones)
    XCTAssertEqual(written.a, (0..<36).map { $0 % 9 == 0 ? 1 : 0 })
  }
  /// Races and memory without a value are told, and the program goes on; what no GPU goes on from ends it.
  func testOtherFindings() throws {
    let race = try run("a[t / 2] = 1; b[t] = 2;", a: ones, b: ones)
    XCTAssertEqual(race.b, [Float](repeating: 2, count: 32))
    XCTAssertEqual(race.found.map(\.kind), [.race])
    XCTAssertThrowsError(
      try run("if (t < 16) simdgroup_barrier(mem_flags::mem_none); else b[t] = simd_sum(b[t]);", a: ones, b: ones)
    ) { XCTAssertEqual(($0 as? MTLCommandBufferError)?.finding?.kind, .divergence) }
    SoftwareMetal.options.asApple = false
    let h = try Harness()
    let source =
      Self.head + "kernel void k(device float *a [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) { a[t] = 1; }"
    XCTAssertEqual(try h.finding(source, "k", [nil])?.kind, .unboundBuffer, "without the option a finding is an error")
  }
}
