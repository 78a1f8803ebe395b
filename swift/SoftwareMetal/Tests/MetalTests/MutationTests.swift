// Sound kernels, broken one step at a time: every mutant must be found, or compute something else.
import Metal
import XCTest

final class MutationTests: XCTestCase {
  struct Subject: Sendable {
    let name: String, source: String, mutants: [(String, String, Int)];
    let run: @Sendable (Harness, any MTLComputePipelineState) throws -> [Float]
  }

  static let transpose = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void subject(device const float *a [[buffer(0)]], device float *o [[buffer(1)]], constant uint \
    &n [[buffer(2)]],
                        uint2 t [[thread_position_in_threadgroup]], uint2 b [[threadgroup_position_in_grid]]) {
      threadgroup float tile[8][9];
      for (uint k = 0; k < 2; ++k) {
        tile[t.y][t.x] = a[(8 * b.y + t.y) * n + 8 * b.x + t.x] + k;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (k == 1) o[(8 * b.x + t.y) * n + 8 * b.y + t.x] = tile[t.x][t.y];
        else o[n * n + (8 * b.x + t.y) * n + 8 * b.y + t.x] = tile[t.x][t.y];
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
    }
    """
  static let scan = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void subject(device const float *a [[buffer(0)]], device float *o [[buffer(1)]], \
    device float *sums [[buffer(2)]],
                        uint t [[thread_index_in_threadgroup]], uint l [[thread_index_in_simdgroup]], \
    uint s [[simdgroup_index_in_threadgroup]]) {
      threadgroup float part[4], total[1];
      float x = simd_prefix_inclusive_sum(a[t]);
      if (l == 31) part[s] = x;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (s == 0) {
        float p = l < 4 ? part[l] : 0;
        float q = simd_prefix_exclusive_sum(p);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (l < 4) part[l] = q;
        if (l == 3) total[0] = q + p;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      o[t] = x + part[s];
      sums[t] = total[0];
      threadgroup_barrier(mem_flags::mem_device);
      if (t < 64) o[128 + t] = o[127 - t];
    }
    """
  static let matmul = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void subject(device const float *a [[buffer(0)]], device float *o [[buffer(1)]], threadgroup float *block \
    [[threadgroup(0)]],
                        uint t [[thread_index_in_threadgroup]], uint s [[simdgroup_index_in_threadgroup]], \
    ushort l [[thread_index_in_simdgroup]]) {
      simdgroup_float8x8 c = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      for (uint k = 0; k < 32; k += 8) {
        for (uint i = t; i < 128; i += 64) block[i] = a[(i / 8) * 32 + k + i % 8];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_float8x8 x, y;
        simdgroup_load(x, block + 64 * s, 8);
        simdgroup_load(y, block + 64 * (1 - s), 8, 0, true);
        simdgroup_multiply_accumulate(c, x, y, c);
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
      c.thread_elements() *= 2.0f;
      simdgroup_store(c, block + 64 * s, 8);
      simdgroup_barrier(mem_flags::mem_threadgroup);
      for (uint i = l; i < 64; i += 32) o[64 * s + i] = block[64 * s + i];
    }
    """
  static let subjects: [Subject] = [
    Subject(
      name: "transpose", source: transpose,
      mutants: [
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", "", 2), ("mem_threadgroup", "mem_device", 2),
        ("mem_threadgroup", "mem_none", 2),
        ("tile[t.y][t.x]", "tile[t.y][t.x + 1]", 1), ("tile[t.x][t.y]", "tile[t.x + 1][t.y]", 2),
        ("8 * b.y", "8 * b.y + 1", 3), ("8 * b.x", "8 * b.x + 8", 3),
        ("tile[8][9]", "tile[7][9]", 1), ("n * n", "n * n + 1", 1), ("k < 2", "k < 1", 1),
        ("constant uint", "device atomic_uint", 1), ("device const float *a", "threadgroup const float *a", 1),
        ("k == 1", "k == t.x", 1),
      ]
    ) { h, p in
      let o = try h.buffer(of: Float.self, count: 512)
      try h.run(
        p, [h.buffer(floats(256, seed: 1)), o, h.buffer([UInt32(16)])], groups: MTLSizeMake(2, 2, 1),
        threads: MTLSizeMake(8, 8, 1))
      return o.array(of: Float.self)
    },
    Subject(
      name: "scan", source: scan,
      mutants: [
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", "", 2),
        ("threadgroup_barrier(mem_flags::mem_device);", "", 1), ("mem_device", "mem_threadgroup", 1),
        ("if (l == 31)", "if (l == 30)", 1), ("if (l == 31)", "", 1), ("part[s] = x", "part[s + 1] = x", 1),
        ("if (s == 0)", "if (s <= 1)", 1), ("if (s == 0)", "if (t < 16)", 1),
        ("part[4]", "part[3]", 1), ("if (l == 3)", "", 1), ("if (l == 3)", "if (l == 2)", 1),
        ("o[t] = x", "o[t / 2] = x", 1), ("o[127 - t]", "o[128 - t]", 1),
        ("sums[t]", "sums[t + 1]", 1), ("x + part[s]", "x + part[s + 1]", 1),
        ("threadgroup float part", "device float part", 1),
      ]
    ) { h, p in
      let o = try h.buffer(of: Float.self, count: 192), s = try h.buffer(of: Float.self, count: 128)
      _ = try h.run(p, [h.buffer((0..<128).map { Float($0 % 7) }), o, s], groups: 1, threads: 128)
      return o.array(of: Float.self) + s.array(of: Float.self)
    },
    Subject(
      name: "matmul", source: matmul,
      mutants: [
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", "", 2),
        ("simdgroup_barrier(mem_flags::mem_threadgroup);", "", 1),
        (
          "threadgroup_barrier(mem_flags::mem_threadgroup);",
          "if (s == 0) threadgroup_barrier(mem_flags::mem_threadgroup);", 2
        ),
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", "simdgroup_barrier(mem_flags::mem_threadgroup);", 2),
        ("block + 64 * s", "block + 64 * s + 1", 2), ("64 * (1 - s)", "64 * (2 - s)", 1),
        ("i < 128", "i < 120", 1), ("i < 128", "i < 136", 1), ("i += 64", "i += 32", 1), ("k < 32", "k < 40", 1),
        ("k += 8", "k += 7", 1), (", 8, 0, true", ", 8", 1), (", 8, 0, true", ", 9, 0, true", 1),
        ("simdgroup_multiply_accumulate(c, x, y, c)", "simdgroup_multiply_accumulate(c, y, x, c)", 1),
        ("simdgroup_load(x", "if (l < 31) simdgroup_load(x", 1), ("block + 64 * s", "block + 64 * s + l", 2),
        ("o[64 * s + i]", "o[64 * s + i + 1]", 1), ("o[64 * s + i]", "o[i]", 1),
        ("threadgroup float *block", "device float *block", 1), ("device const float *a", "constant half *a", 1),
        ("i < 64", "i < 65", 1),
      ]
    ) { h, p in
      let o = try h.buffer(of: Float.self, count: 128)
      _ = try h.run(p, [h.buffer(floats(512, seed: 2)), o], groups: 1, threads: 64, memory: [512])
      return o.array(of: Float.self)
    },
  ]

  func testEveryMutantIsCaught() throws {
    let h = try Harness()
    var found: [String: Int] = [:], total = 0, survivors: [String] = []
    for s in Self.subjects {
      let expected = try s.run(h, h.pipeline(s.source, "subject"))
      for (pattern, replacement, occurrences) in s.mutants {
        for n in 0..<occurrences {
          var from = s.source.startIndex, range: Range<String.Index>?
          for _ in 0...n {
            range = s.source.range(of: pattern, range: from..<s.source.endIndex);
            from = try XCTUnwrap(range, "\(s.name): no \(pattern)").upperBound
          }
          let mutant = s.source.replacingCharacters(in: try XCTUnwrap(range), with: replacement)
          total += 1
          do {
            let p = try h.pipeline(mutant, "subject")
            if try s.run(h, p) != expected {
              found["different result", default: 0] += 1
            } else {
              survivors.append("\(s.name): \(pattern) -> \(replacement) (\(n))")
            }
          } catch let e as MTLLibraryError {
            found["front end", default: 0] += 1; XCTAssertEqual(e.code, .compileFailure, "\(e)")
          } catch let e as MTLCommandBufferError {
            found[e.finding.map { "\($0.kind)" } ?? "misuse", default: 0] += 1
          }
        }
      }
    }
    print(
      "mutation score: \(total - survivors.count) of \(total); caught by "
        + found.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", "))
    XCTAssertEqual(survivors, [])
  }
}
