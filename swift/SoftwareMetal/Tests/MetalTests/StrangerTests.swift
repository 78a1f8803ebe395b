// Programs written the way Apple's samples are, for a GPU: not for this device.
import Metal
import XCTest

enum Samples {
  static let add = """
    #include <metal_stdlib>
    using namespace metal;
    /// Adds two arrays: one thread an element.
    kernel void add_arrays(device const float* inA, device const float* inB, device float* result, \
    uint index [[thread_position_in_grid]])
    {
        // the for-loop is replaced with a collection of threads, each of which calls this function.
        result[index] = inA[index] + inB[index];
    }
    """
  static let reduce = """
    #include <metal_stdlib>
    using namespace metal;
    #define SIMD_SIZE 32
    // Each threadgroup sums its part; the first SIMD group sums the parts of the SIMD groups.
    kernel void reduce_sum(const device float *input [[ buffer(0) ]],
                           device atomic_float *output [[ buffer(1) ]],
                           constant uint &count [[ buffer(2) ]],
                           threadgroup float *partial [[ threadgroup(0) ]],
                           uint gid [[ thread_position_in_grid ]],
                           ushort lid [[ thread_index_in_threadgroup ]],
                           ushort lane [[ thread_index_in_simdgroup ]],
                           ushort simd_id [[ simdgroup_index_in_threadgroup ]],
                           ushort simds [[ simdgroups_per_threadgroup ]])
    {
        float value = gid < count ? input[gid] : 0.0;
        value = simd_sum(value);
        if (lane == 0) partial[simd_id] = value;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (simd_id == 0) {
            float v = lane < simds ? partial[lane] : 0.f;
            v = simd_sum(v);
            if (lane == 0) atomic_fetch_add_explicit(output, v, memory_order_relaxed);
        }
    }
    """
  static let tiled = """
    #include <metal_stdlib>
    using namespace metal;
    struct MatMulParams { uint M; uint N; uint K; };
    #define TILE 16
    kernel void matmul_tiled(device const float* A [[buffer(0)]], device const float* B [[buffer(1)]], \
    device float* C [[buffer(2)]],
                             constant MatMulParams& params [[buffer(3)]],
                             uint2 tid [[thread_position_in_threadgroup]], uint2 gid [[thread_position_in_grid]])
    {
        threadgroup float tileA[TILE][TILE], tileB[TILE][TILE];
        float sum = 0;
        for (uint t = 0; t < (params.K + TILE - 1) / TILE; ++t) {
            uint ka = t * TILE + tid.x, kb = t * TILE + tid.y;
            tileA[tid.y][tid.x] = (gid.y < params.M && ka < params.K) ? A[gid.y * params.K + ka] : 0;
            tileB[tid.y][tid.x] = (kb < params.K && gid.x < params.N) ? B[kb * params.N + gid.x] : 0;
            threadgroup_barrier(mem_flags::mem_threadgroup);
            #pragma unroll
            for (uint k = 0; k < TILE; ++k) sum = fma(tileA[tid.y][k], tileB[k][tid.x], sum);
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        if (gid.y < params.M && gid.x < params.N) C[gid.y * params.N + gid.x] = sum;
    }
    """
  static let simdgroup = """
    #include <metal_stdlib>
    #include <metal_simdgroup_matrix>
    using namespace metal;
    constant uint N [[function_constant(0)]];
    template <typename T>
    [[kernel]] void matmul_simdgroup(device const T *A [[buffer(0)]], device const T *B [[buffer(1)]], \
    device float *C [[buffer(2)]],
                                     uint2 tg [[threadgroup_position_in_grid]], \
    uint sg [[simdgroup_index_in_threadgroup]]) {
      const uint row = tg.y * 32 + (sg / 2) * 16, column = tg.x * 32 + (sg % 2) * 16;
      simdgroup_matrix<float, 8, 8> acc[2][2];
      for (short i = 0; i < 2; ++i) for (short j = 0; j < 2; ++j) acc[i][j] = make_filled_simdgroup_matrix<float, 8, \
    8>(0.f);
      for (uint k = 0; k < N; k += 8) {
        simdgroup_matrix<T, 8, 8> a[2], b[2];
        for (short i = 0; i < 2; ++i) {
          simdgroup_load(a[i], A, N, ulong2(k, row + 8 * i));
          simdgroup_load(b[i], B + k * N + column + 8 * i, N);
        }
        for (short i = 0; i < 2; ++i) for (short j = 0; j < 2; ++j) simdgroup_multiply_accumulate(acc[i][j], a[i], \
    b[j], acc[i][j]);
      }
      for (short i = 0; i < 2; ++i) for (short j = 0; j < 2; ++j) simdgroup_store(acc[i][j], C, N, ulong2(column \
    + 8 * j, row + 8 * i));
    }
    template [[host_name("matmul_f32")]] [[kernel]] void matmul_simdgroup<float>(device const float *, \
    device const float *, device float *, uint2, uint);
    template [[host_name("matmul_f16")]] kernel decltype(matmul_simdgroup<half>) matmul_simdgroup<half>;
    template [[host_name("matmul_bf16")]] kernel decltype(matmul_simdgroup<bfloat>) matmul_simdgroup<bfloat>;
    """
}

final class StrangerTests: XCTestCase {
  func testElementwise() throws {
    let h = try Harness(), n = 1000, a = floats(n, seed: 1), b = floats(n, seed: 2)
    let out = try h.buffer(of: Float.self, count: n), p = try h.pipeline(Samples.add, "add_arrays")
    let commands = try XCTUnwrap(h.queue.makeCommandBuffer()), e = try XCTUnwrap(commands.makeComputeCommandEncoder())
    e.setComputePipelineState(p)
    e.setBuffers([try h.buffer(a), try h.buffer(b), out], offsets: [0, 0, 0], range: 0..<3)
    // The last threadgroup is smaller.
    e.dispatchThreads(MTLSizeMake(n, 1, 1), threadsPerThreadgroup: MTLSizeMake(256, 1, 1))
    e.endEncoding()
    commands.commit()
    commands.waitUntilCompleted()
    XCTAssertNil(commands.error)
    XCTAssertEqual(out.array(of: Float.self), zip(a, b).map { $0 + $1 })
    let c = commands.softwareDispatches[0].counters
    XCTAssertEqual([c.threads, c.deviceBytesRead, c.deviceBytesWritten, c.floatOperations], [1000, 8000, 4000, 1000])
  }
  func testReduction() throws {
    let h = try Harness(), n = 5000, x = (0..<n).map { Float($0 % 17 - 8) }
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      let out = try h.buffer([Float(0)]), p = try h.pipeline(Samples.reduce, "reduce_sum", mode: mode)
      let c = try h.run(p, [h.buffer(x), out, h.buffer([UInt32(n)])], groups: 20, threads: 256, memory: [128])
      XCTAssertEqual(out.array(of: Float.self), [x.reduce(0, +)])
      XCTAssertEqual([c.threadgroupBarriers, c.simdOperations], [20, 180])
    }
  }
  func testTiledMatmul() throws {
    let h = try Harness(), (m, n, k) = (37, 29, 41), a = floats(m * k, seed: 3), b = floats(k * n, seed: 4)
    let out = try h.buffer(of: Float.self, count: m * n), p = try h.pipeline(Samples.tiled, "matmul_tiled")
    XCTAssertEqual(p.staticThreadgroupMemoryLength, 2048)
    try h.run(
      p, [h.buffer(a), h.buffer(b), out, h.buffer([UInt32(m), UInt32(n), UInt32(k)])], groups: MTLSizeMake(2, 3, 1),
      threads: MTLSizeMake(16, 16, 1))
    let c = out.array(of: Float.self)
    for i in 0..<m {
      for j in 0..<n {
        let exact = (0..<k).reduce(0.0) { $0 + Double(a[i * k + $1]) * Double(b[$1 * n + j]) }
        XCTAssertEqual(Double(c[i * n + j]), exact, accuracy: 1e-5)
      }
    }
  }
  func testSimdgroupMatmul() throws {
    let h = try Harness(), n = 64, a = floats(n * n, seed: 5), b = floats(n * n, seed: 6)
    var size = UInt32(n)
    let constants = MTLFunctionConstantValues()
    constants.setConstantValue(&size, type: .uint, index: 0)
    func bfloat(_ x: Float) -> UInt16 {
      UInt16(truncatingIfNeeded: (x.bitPattern &+ 0x7fff &+ (x.bitPattern >> 16 & 1)) >> 16)
    }
    func value(_ u: UInt16) -> Float { Float(bitPattern: UInt32(u) << 16) }
    for mode in [SoftwareMetal.Mode.fast, .counted, .checked] {
      for kernel in ["matmul_f32", "matmul_f16", "matmul_bf16"] {
        let (pa, pb): (any MTLBuffer, any MTLBuffer), x: [Float], y: [Float]
        switch kernel {
        case "matmul_f32": (pa, pb, x, y) = (try h.buffer(a), try h.buffer(b), a, b)
        case "matmul_f16":
          (pa, pb, x, y) = (
            try h.buffer(a.map(Float16.init)), try h.buffer(b.map(Float16.init)), a.map { Float(Float16($0)) },
            b.map { Float(Float16($0)) }
          )
        default:
          (pa, pb, x, y) = (
            try h.buffer(a.map(bfloat)), try h.buffer(b.map(bfloat)), a.map { value(bfloat($0)) },
            b.map { value(bfloat($0)) }
          )
        }
        let out = try h.buffer(of: Float.self, count: n * n),
          p = try h.pipeline(Samples.simdgroup, kernel, constants: constants, mode: mode)
        let ran = try h.run(p, [pa, pb, out], groups: MTLSizeMake(2, 2, 1), threads: MTLSizeMake(128, 1, 1))
        XCTAssertEqual(ran.softwareDispatches[0].counters.matrixMultiplies, 512)
        let c = out.array(of: Float.self)
        for i in 0..<n {
          for j in 0..<n {
            let exact = (0..<n).reduce(0.0) { $0 + Double(x[i * n + $1]) * Double(y[$1 * n + j]) }
            XCTAssertEqual(Double(c[i * n + j]), exact, accuracy: 2e-5, "\(kernel) \(mode)")
          }
        }
      }
    }
  }

  /// A report, not a test: SOFTWARE_METAL_REPORT=1 swift test --filter testSpeed
  func testSpeed() throws {
    try XCTSkipUnless(
      ProcessInfo.processInfo.environment["SOFTWARE_METAL_REPORT"] == "1", "set SOFTWARE_METAL_REPORT=1")
    let h = try Harness(), n = 512, a = try h.buffer(floats(n * n, seed: 7)), b = try h.buffer(floats(n * n, seed: 8)),
      c = try h.buffer(of: Float.self, count: n * n)
    var size = UInt32(n)
    let constants = MTLFunctionConstantValues()
    constants.setConstantValue(&size, type: .uint, index: 0)
    for mode in [SoftwareMetal.Mode.fast, .counted, .checked] {
      let p = try h.pipeline(Samples.simdgroup, "matmul_f32", constants: constants, mode: mode)
      var best = 0.0
      for _ in 0..<3 {
        let start = clock()  // processor time: other work on the machine does not count
        let d = try h.run(p, [a, b, c], groups: MTLSizeMake(n / 32, n / 32, 1), threads: MTLSizeMake(128, 1, 1))
          .softwareDispatches[0]
        best = max(best, Double(d.counters.matrixMultiplies) * Double(CLOCKS_PER_SEC) / Double(clock() - start))
      }
      print("\(mode): \(String(format: "%.2f", best / 1e6)) million 8x8x8 multiply-accumulates a second of one core")
    }
  }
}
