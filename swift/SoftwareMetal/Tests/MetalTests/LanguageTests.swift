// Programs that Metal accepts, with the results Metal gives.
import Metal
import XCTest

final class LanguageTests: XCTestCase {
  /// Runs one thread of a program that writes floats, and returns them.
  func values(_ body: String, prelude: String = "", count: Int = 8, threads: Int = 1) throws -> [Float] {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: count)
    let source =
      "#include <metal_stdlib>\nusing namespace metal;\n\(prelude)\nkernel void k(device float *o [[buffer(0)]], "
      + "uint t [[thread_position_in_grid]]) { \(body) }"
    _ = try h.run(h.pipeline(source, "k"), [out], groups: 1, threads: threads)
    return out.array(of: Float.self)
  }
  func check(_ expected: [Float], _ body: String, prelude: String = "", line: UInt = #line) throws {
    let v = try values(body, prelude: prelude)
    for (i, e) in expected.enumerated() { XCTAssertEqual(v[i], e, accuracy: abs(e) * 1e-6, "element \(i)", line: line) }
  }

  func testVectors() throws {
    try check([1, 2, 3, 4], "float4 v(1, float2(2, 3), 4); for (int i = 0; i < 4; ++i) o[i] = v[i];")
    try check(
      [3, 2, 9, 9],
      "float4 v = float4(1, 2, 3, 4); v.xz = v.zx; v.yw = 9; o[0] = v.x; o[1] = float3(v.zyx).x + 1; o[2] = v.y; "
        + "o[3] = v.w;"
    )
    try check([1.5, 2.5], "half2 h = half2(float2(1.5, 2.5)); float2 f = float2(h); o[0] = f.x; o[1] = f.y;")
    try check([3, -2], "int2 i = int2(float2(3.7, -2.2)); o[0] = i.x; o[1] = (float)i.y;")
    try check(
      [1, 0, 1],
      "float3 a(1, 5, 3), b(2, 4, 4); bool3 m = a < b; o[0] = m.x; o[1] = m.y; o[2] = all(bool2(m.x, m.z)) ? 1 : 0;")
    try check(
      [2, 5], "float2 r = select(float2(1, 5), float2(2, 6), float2(1, 2) < float2(2, 1)); o[0] = r.x; o[1] = r.y;")
    try check([10], "uchar4 c = uchar4(1, 2, 3, 4); o[0] = c.x + c.y + c.z + c.w;")
    try check([4, 6], "packed_float3 p = float3(1, 2, 3); float3 q = p; p[1] = 4; o[0] = p.y; o[1] = q.x + q.y + q.z;")
    try check([12, 16], "o[0] = sizeof(packed_float3); o[1] = sizeof(float3);")
    try check([5, 7], "vec<float, 2> v = vec<float, 2>(5, 7); o[0] = v.x; o[1] = v.y;")
    try check([4], "o[0] = ((float4)(half4(4))).z;")
  }
  func testTemplatesAndStructs() throws {
    try check(
      [6, 2.5], "o[0] = add<float4>(float4(1), float4(5)).y; o[1] = (float)convert<half>(2.5f);",
      prelude:
        "template <typename T> T add(T a, T b) { return a + b; } template <typename T> T convert(float x) { "
        + "return T(x); }"
    )
    try check(
      [3, 8], "Pair p = {1, 2}; o[0] = p.sum(); o[1] = Twice<4>::value;",
      prelude:
        "struct Pair { float x, y; float sum() const { return x + y; } }; template <int N> struct Twice { "
        + "static constant constexpr int value = 2 * N; };"
    )
    try check(
      [7], "o[0] = pick(Tag::second);",
      prelude:
        "enum class Tag : uint { first, second }; constant float table[2] = {5, 7}; float pick(Tag t) { "
        + "return table[(uint)t]; }"
    )
    try check(
      [11], "float x = 1; bump(x); thread float *p = &x; *p += 5; o[0] = x;",
      prelude: "inline void bump(thread float &x) { x += 5; }")
    try check(
      [9], "Acc a; a.add(4); a.add(5); o[0] = a.value();",
      prelude:
        "class Acc { private: float v = 0; public: void add(float x) { v += x; } float value() const thread { "
        + "return v; } };"
    )
    try check([3], "o[0] = local + global;", prelude: "constant int local = 1; constant int global = 2;")
    try check([2], "using T4 = vec<float, 4>; T4 v = T4(half4(2)); o[0] = v.w;")
    try check(
      [1, 2, 4], "for (ushort i = 0; i < 3; ++i) o[i] = shift(i);",
      prelude:
        "namespace ns { METAL_FUNC float twice(float x) { return 2 * x; } } float shift(ushort i) { float r = 1; "
        + "while (i--) r = ns::twice(r); return r; }"
    )
  }
  func testStructsInMemory() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 4)
    let source = """
      #include <metal_stdlib>
      using namespace metal;
      struct Item { float x; packed_float3 p; uint n; float twice() const { return 2 * x; } };
      kernel void k(device Item *items [[buffer(0)]], constant Item &c [[buffer(1)]], device float *o [[buffer(2)]]) {
        Item i = items[1], j = c;
        items[0] = i;
        items[0].p.z = 7;
        o[0] = i.twice(); o[1] = j.p.y; o[2] = items[0].p.z; o[3] = float(c.n);
      }
      """
    let items: [Float] = [0, 0, 0, 0, 0, 5, 1, 2, 3, 0]
    let buffer = try h.buffer(items), c = try h.buffer([Float(9), 4, 6, 8, Float(bitPattern: 3)])
    _ = try h.run(h.pipeline(source, "k"), [buffer, c, out], groups: 1, threads: 1)
    XCTAssertEqual(out.array(of: Float.self), [10, 6, 7, 3])
    XCTAssertEqual(buffer.array(of: Float.self)[0], 5)
  }
  func testMath() throws {
    try check(
      [exp(1), log2(3), 0.5, 8], "o[0] = exp(1.0f); o[1] = log2(3.0); o[2] = rsqrt(4.0f); o[3] = pow(2.0f, 3.0f);")
    try check(
      [exp(1), 2, 3, 0.25],
      "o[0] = precise::exp(1.0f); o[1] = fast::sqrt(4.0f); o[2] = fast::max(2.0f, 3.0f); o[3] = precise::divide(1.0f, "
        + "4.0f);"
    )
    try check(
      [2, 1, 5, 0.5],
      "o[0] = clamp(3.0f, 1.0f, 2.0f); o[1] = saturate(4.0f); o[2] = length(float2(3, 4)); o[3] = mix(0.0f, 1.0f, "
        + "0.5f);"
    )
    try check(
      [32, -1, 1, 0],
      "o[0] = dot(float3(1, 2, 3), float3(4, 5, 6)); o[1] = sign(-3.0f); o[2] = step(1.0f, 2.0f); o[3] = isnan(1.0f);")
    try check(
      [3, 28, 2, 240], "o[0] = popcount(7u); o[1] = clz(8u); o[2] = ctz(4); o[3] = extract_bits(0xf00u, 4u, 8u);")
    try check(
      [1, 255, 127, 2],
      "o[0] = as_type<uint>(1.0f) == 0x3f800000; o[1] = addsat((uchar)200, (uchar)100); "
        + "o[2] = numeric_limits<char>::max(); o[3] = abs(-2);"
    )
    try check(
      [19, 28, 7, 10],
      "float2x2 m = float2x2(float2(1, 2), float2(3, 4)); float2 r = m * float2(4, 5); o[0] = r.x; o[1] = r.y; "
        + "float2x2 p = m * m; o[2] = p[0][0]; o[3] = p[0][1];"
    )
    XCTAssertTrue(try values("o[0] = INFINITY; o[1] = NAN; o[2] = M_PI_F; o[3] = -INFINITY < 0 ? 1 : 0;")[1].isNaN)
  }
  func testPreprocessor() throws {
    try check(
      [6], "o[0] = F(2);",
      prelude: "#define F(x) \\\n  ((x) * 3)\n#if __METAL_VERSION__ >= 310\n#else\n#error old\n#endif")
    let h = try Harness(), options = MTLCompileOptions(), out = try h.buffer([Float(0)])
    options.preprocessorMacros = ["VALUE": NSNumber(value: 5)]
    let p = try h.device.makeComputePipelineState(
      function: XCTUnwrap(
        h.device.makeLibrary(source: "kernel void k(device float *o) { o[0] = VALUE; }", options: options).makeFunction(
          name: "k")))
    _ = try h.run(p, [out], groups: 1, threads: 1)
    XCTAssertEqual(out.array(of: Float.self), [5])
  }
  func testFunctionConstants() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 4)
    let source = """
      using namespace metal;
      constant int A [[function_constant(0)]];
      constant float2 B [[function_constant(3)]];
      constant bool C [[function_constant(5)]];
      constant int twice = A * 2;
      constant int D = is_function_constant_defined(C) ? 1 : 0;
      kernel void k(device float *o [[buffer(0)]]) { o[0] = twice; o[1] = B.y; o[2] = D; \
      if (is_function_constant_defined(C) && C) o[3] = 1; }
      kernel void plain(device float *o [[buffer(0)]]) { o[0] = 1; }
      """
    let library = try h.library(source), c = MTLFunctionConstantValues()
    XCTAssertNotNil(library.makeFunction(name: "plain"))
    XCTAssertNil(library.makeFunction(name: "k"), "A and B are not set")
    XCTAssertNil(library.makeFunction(name: "missing"))
    var (a, b, f) = (Int32(21), SIMD2<Float>(1, 2), Float(1))
    c.setConstantValue(&b, type: .float2, index: 3)
    XCTAssertThrowsError(try library.makeFunction(name: "k", constantValues: c)) {
      XCTAssertTrue("\($0)".contains("'A'"), "\($0)")
    }
    c.setConstantValue(&f, type: .float, withName: "A")
    XCTAssertThrowsError(try library.makeFunction(name: "k", constantValues: c)) {
      XCTAssertTrue("\($0)".contains("type"), "\($0)")
    }
    c.setConstantValue(&a, type: .int, index: 0)
    let one = try h.device.makeComputePipelineState(function: library.makeFunction(name: "k", constantValues: c))
    a = 4
    var yes = true
    c.setConstantValue(&a, type: .int, index: 0)
    c.setConstantValue(&yes, type: .bool, withName: "C")
    let two = try h.device.makeComputePipelineState(function: library.makeFunction(name: "k", constantValues: c))
    _ = try h.run(one, [out], groups: 1, threads: 1)
    XCTAssertEqual(out.array(of: Float.self), [42, 2, 0, 0])
    _ = try h.run(two, [out], groups: 1, threads: 1)
    XCTAssertEqual(out.array(of: Float.self), [8, 2, 1, 1])
  }
  func testSimdFunctions() throws {
    let h = try Harness(), n = 32, out = try h.buffer(of: Float.self, count: n * 12)
    let source = """
      using namespace metal;
      kernel void k(device float *o [[buffer(0)]], ushort l [[thread_index_in_simdgroup]]) {
        float x = l;
        o[l] = simd_sum(x); o[32 + l] = simd_max(x); o[64 + l] = simd_shuffle_xor(x, 1); \
      o[96 + l] = simd_shuffle_down(x, 2);
        o[128 + l] = simd_prefix_exclusive_sum(x); o[160 + l] = simd_broadcast(x, 5); o[192 + l] = quad_sum(x); \
      o[224 + l] = simd_shuffle_up(x, 1);
        o[256 + l] = (float)popcount((uint)(ulong)simd_ballot(l < 7)); o[288 + l] = simd_all(l < 40) \
      && simd_any(l == 3) && !simd_all(l < 3);
        o[320 + l] = simd_shuffle_rotate_down(x, 1); o[352 + l] = simd_prefix_inclusive_sum(half(1));
      }
      """
    _ = try h.run(h.pipeline(source, "k"), [out], groups: 1, threads: 32)
    let v = out.array(of: Float.self)
    func row(_ i: Int) -> [Float] { Array(v[32 * i..<32 * i + 32]) }
    XCTAssertEqual(row(0), Array(repeating: 496, count: 32))
    XCTAssertEqual(row(1), Array(repeating: 31, count: 32))
    XCTAssertEqual(row(2), (0..<32).map { Float($0 ^ 1) })
    XCTAssertEqual(row(3)[0..<30], ArraySlice((0..<30).map { Float($0 + 2) }))
    XCTAssertEqual(row(4), (0..<32).map { Float($0 * ($0 - 1) / 2) })
    XCTAssertEqual(row(5), Array(repeating: 5, count: 32))
    XCTAssertEqual(row(6), (0..<32).map { Float($0 / 4 * 16 + 6) })
    XCTAssertEqual(row(7)[1..<32], ArraySlice((0..<31).map { Float($0) }))
    XCTAssertEqual(row(8), Array(repeating: 7, count: 32))
    XCTAssertEqual(row(9), Array(repeating: 1, count: 32))
    XCTAssertEqual(row(10), (0..<32).map { Float(($0 + 1) % 32) })
    XCTAssertEqual(row(11), (0..<32).map { Float($0 + 1) })
  }
  /// Apple's order: lane l holds two neighbours of row l/16·4 + l/2 mod 4.
  func testThreadElements() throws {
    let h = try Harness(), x = (0..<64).map(Float.init)
    let source = """
      #include <metal_simdgroup_matrix>
      using namespace metal;
      kernel void k(device float *a [[buffer(0)]], device float *o [[buffer(1)]], device float *s [[buffer(2)]], \
      ushort l [[thread_index_in_simdgroup]]) {
        simdgroup_float8x8 m, t, d = simdgroup_float8x8(2.0f);
        simdgroup_load(m, a, 8);
        simdgroup_load(t, a, 8, 0, true);
        thread auto &e = m.thread_elements();
        o[2 * l] = e[0]; o[2 * l + 1] = e[1];
        o[64 + 2 * l] = t.thread_elements()[0]; o[64 + 2 * l + 1] = t.thread_elements()[1];
        e *= 3;                       // the reference stays true across operations
        simdgroup_multiply(m, m, d);
        e[0] += 1;
        simdgroup_store(m, s, 8);
      }
      """
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      let o = try h.buffer(of: Float.self, count: 128), s = try h.buffer(of: Float.self, count: 64)
      _ = try h.run(h.pipeline(source, "k", mode: mode), [h.buffer(x), o, s], groups: 1, threads: 32)
      let v = o.array(of: Float.self), w = s.array(of: Float.self)
      for l in 0..<32 {
        let row = l / 16 * 4 + l / 2 % 4, column = (l / 4 & 2) * 2 + l % 2 * 2
        XCTAssertEqual([v[2 * l], v[2 * l + 1]], [x[8 * row + column], x[8 * row + column + 1]])
        XCTAssertEqual([v[64 + 2 * l], v[64 + 2 * l + 1]], [x[8 * column + row], x[8 * (column + 1) + row]])
        XCTAssertEqual(
          [w[8 * row + column], w[8 * row + column + 1]], [6 * x[8 * row + column] + 1, 6 * x[8 * row + column + 1]])
      }
    }
  }
  /// More operations than the executor's log holds, so that lanes overtake each other many times.
  func testLongRunsOfMatrixOperations() throws {
    let h = try Harness(), x = (0..<64).map { Float($0 % 3) }, n = 3000
    let source = """
      #include <metal_simdgroup_matrix>
      using namespace metal;
      kernel void k(device float *a [[buffer(0)]], device float *o [[buffer(1)]], constant uint &n [[buffer(2)]], \
      uint s [[simdgroup_index_in_threadgroup]]) {
        simdgroup_float8x8 m, d = simdgroup_float8x8(1.0f), c = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (uint i = 0; i < n; ++i) { simdgroup_load(m, a, 8); simdgroup_multiply_accumulate(c, m, d, c); \
      if (i % 1000 == 999) c.thread_elements() += 1; }
        simdgroup_store(c, o + 64 * s, 8);
      }
      """
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      let o = try h.buffer(of: Float.self, count: 192)
      let c = try h.run(
        h.pipeline(source, "k", mode: mode), [h.buffer(x), o, h.buffer([UInt32(n)])], groups: 1, threads: 96)
      XCTAssertEqual(o.array(of: Float.self), (0..<192).map { Float(n) * x[$0 % 64] + 3 })
      XCTAssertEqual(c.matrixMultiplies, UInt64(3 * n))
    }
  }
  /// Fragments by their private name, whose two elements a lane reaches through memory; kernels named by macros and
  /// typedefs.
  func testOlderFragmentsAndInstantiations() throws {
    let h = try Harness(), n = 24, a = (0..<n * n).map { Float($0 % 5) }, b = (0..<n * n).map { Float($0 % 3) },
      out = try h.buffer(of: Float.self, count: n * n)
    let source = """
      #include <metal_stdlib>
      using namespace metal;
      template <typename T> struct Fragment {
        vec<T, 64> values;
        METAL_FUNC thread vec<T, 2> *pair() thread { return reinterpret_cast<thread vec<T, 2> *>(&values); }
        template <typename U> METAL_FUNC void read(const device U *p, uint stride, ushort2 place) { *pair() = vec<T, \
      2>(T(p[place.y * stride + place.x]), T(p[place.y * stride + place.x + 1])); }
        template <typename A, typename B> METAL_FUNC void add(Fragment<A> a, Fragment<B> b) {
          values = __metal_simdgroup_matrix_8x8_multiply_accumulate(a.values, b.values, values, \
      typename Fragment<T>::vec_type());
        }
        typedef vec<T, 64> vec_type;
      };
      struct alignas(8) Shape { uint n; };
      template <typename T, int Tile>
      kernel void product(device const T *a [[buffer(0)]], device const T *b [[buffer(1)]], \
      device float *o [[buffer(2)]], constant Shape &shape [[buffer(3)]],
                          uint2 tile [[threadgroup_position_in_grid]], ushort l [[thread_index_in_simdgroup]]) {
        const ushort2 place = ushort2((l & 1) * 2 + (l & 8) / 2, l / 16 * 4 + l / 2 % 4);
        Fragment<float> c;
        *c.pair() = 0;
        const uint n = shape.n, row = tile.y * Tile, column = tile.x * Tile;
        for (uint k = 0; k < n; k += Tile) {
          Fragment<T> x, y;
          x.read(a + row * n + k, n, place);
          y.read(b + k * n + column, n, place);
          c.add(x, y);
        }
        *(device float2 *)(o + (row + place.y) * n + column + place.x) = *c.pair();
      }
      typedef decltype(product<float, 8>) product_t;
      template [[host_name("product_typedef")]] kernel product_t product<float, 8>;
      #define INSTANTIATE(name, T, N) template [[host_name(#name "_" #T)]] [[kernel]] void product<T, \
      N>(device const T *, device const T *, device float *, constant Shape &, uint2, ushort);
      INSTANTIATE(product, half, 8)
      """
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      let library = try h.library(source, mode: mode)
      XCTAssertEqual(library.functionNames, ["product_typedef", "product_half"])
      for name in library.functionNames {
        let half = name == "product_half"
        let p = try h.device.makeComputePipelineState(function: XCTUnwrap(library.makeFunction(name: name)))
        try h.run(
          p,
          [
            half ? h.buffer(a.map(Float16.init)) : h.buffer(a), half ? h.buffer(b.map(Float16.init)) : h.buffer(b), out,
            h.buffer([UInt32(n), 0]),
          ], groups: MTLSizeMake(3, 3, 1), threads: MTLSizeMake(32, 1, 1))
        var expected = [Float](repeating: 0, count: n * n)
        for i in 0..<n { for j in 0..<n { for k in 0..<n { expected[i * n + j] += a[i * n + k] * b[k * n + j] } } }
        XCTAssertEqual(out.array(of: Float.self), expected, name)
      }
    }
  }
  func testAtomics() throws {
    let h = try Harness(), n = try h.buffer([UInt32(0), 0, 0, 0]), f = try h.buffer([Float(0)])
    let source = """
      using namespace metal;
      kernel void k(device atomic_uint *n [[buffer(0)]], device atomic<float> *f [[buffer(1)]], \
      uint t [[thread_position_in_grid]], uint l [[thread_index_in_threadgroup]]) {
        threadgroup atomic_int local;
        if (l == 0) atomic_store_explicit(&local, 0, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        atomic_fetch_add_explicit(&local, 2, memory_order_relaxed);
        atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
        atomic_fetch_max_explicit(n + 1, t, memory_order_relaxed);
        atomic_fetch_add_explicit(f, 0.5f, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (l == 0) atomic_fetch_add_explicit(n + 2, (uint)atomic_load_explicit(&local, memory_order_relaxed), \
      memory_order_relaxed);
      }
      """
    let c = try h.run(h.pipeline(source, "k"), [n, f], groups: 8, threads: 64)
    XCTAssertEqual(n.array(of: UInt32.self), [512, 511, 1024, 0])
    XCTAssertEqual(f.array(of: Float.self), [256])
    XCTAssertGreaterThan(c.atomicOperations, 4 * 512)
  }
  func testAsyncCopyOfOlderKernels() throws {
    let h = try Harness(), n = 13, x = floats(n * n, seed: 9), out = try h.buffer(of: Float.self, count: 256)
    _ = try h.run(
      h.pipeline(AsyncCopy.source, "copy"), [h.buffer(x), out, h.buffer([UInt32(n)])], groups: 1, threads: 32)
    let v = out.array(of: Float.self)
    for i in 0..<16 { for j in 0..<16 { XCTAssertEqual(v[16 * i + j], i < n && j < n ? x[n * i + j] * 2 : 0) } }
    XCTAssertEqual(
      try h.finding(
        AsyncCopy.source.replacingOccurrences(of: "e.wait();", with: ""), "copy",
        [h.buffer(x), out, h.buffer([UInt32(n)])])?.kind, .uninitializedThreadgroupMemory)
  }
}

/// The manner of older public kernels, written for this test.
enum AsyncCopy {
  static let source = """
    #include <metal_stdlib>
    using namespace metal;
    struct _simdgroup_event_t;
    thread _simdgroup_event_t* __metal_simdgroup_async_copy_2d(ulong, ulong, threadgroup void *, ulong, ulong, \
    ulong2, const device void *, ulong, ulong, ulong2, long2, int)
      __asm("air.simdgroup_async_copy_2d.p3i8.p1i8");
    void __metal_wait_simdgroup_events(int, thread _simdgroup_event_t**) __asm("air.wait_simdgroup_events");
    struct event {
      thread _simdgroup_event_t* handle;
      void copy(threadgroup float *d, ushort width, ushort2 tile, const device float *s, uint stride, \
    ushort2 valid) thread {
        handle = __metal_simdgroup_async_copy_2d(sizeof(float), alignof(float), reinterpret_cast<threadgroup void \
    *>(d), ulong(width), 1, ulong2(tile),
                                                 reinterpret_cast<const device void *>(s), ulong(stride), 1, \
    ulong2(valid), long2(0), 0);
      }
      void wait() thread { __metal_wait_simdgroup_events(1, &handle); }
    };
    kernel void copy(device const float *a [[buffer(0)]], device float *o [[buffer(1)]], constant uint \
    &n [[buffer(2)]], uint t [[thread_index_in_threadgroup]]) {
      threadgroup float tile[256];
      event e;
      e.copy(tile, 16, ushort2(16, 16), a, n, ushort2(n, n));
      e.wait();
      for (uint i = t; i < 256; i += 32) o[i] = tile[i] * 2;
    }
    """
}
