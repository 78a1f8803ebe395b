// Kernels of our own in the manner of public ones, which Apple compiles: each refusal is a fault of the front end.
import Metal
import XCTest

final class PublicKernelsTests: XCTestCase {
  static let head = "#include <metal_stdlib>\nusing namespace metal;\n"

  /// One thread's floats.
  func check(_ expected: [Float], _ body: String, prelude: String = "", line: UInt = #line) throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 16)
    let source = Self.head + prelude + "\nkernel void k(device float *o [[buffer(0)]]) { \(body) }"
    _ = try h.run(h.pipeline(source, "k"), [out], groups: 1, threads: 1)
    XCTAssertEqual(Array(out.array(of: Float.self)[0..<expected.count]), expected, line: line)
  }

  /// A scalar becomes a vector wherever one is expected.
  func testScalarsBecomeVectors() throws {
    let storage = """
      template <typename T> struct Pair {
        vec<T, 2> e;
        METAL_FUNC Pair() thread = default;
        METAL_FUNC Pair(vec<T, 2> x) thread { e = x; }
        METAL_FUNC vec<T, 2> sum(vec<T, 2> other) thread const { return e + other; }
      };
      struct Plain { float4 v; Plain(float4 x) : v(x) {} };
      inline float4 both(float4 a, half2 b) { return a + float4(float2(b), float2(b)); }
      inline half4 one() { return 1; }
      inline float3 positive(float x) { if (x > 0) return x; return 0; }
      constant float4 offsets = 0.5;
      """
    try check(
      [0, 0, 3, 3], "Pair<float> p = Pair<float>(0), q(3); o[0] = p.e.x; o[1] = p.e.y; o[2] = q.e.x; o[3] = q.e.y;",
      prelude: storage)
    try check(
      [2.5, 2.5], "Pair<half> p = Pair<half>(half(2)); half2 s = p.sum(0.5h); o[0] = s.x; o[1] = s.y;", prelude: storage
    )
    try check([7, 7], "Plain p(7), q = Plain(7.0f); o[0] = p.v.w; o[1] = q.v.x;", prelude: storage)
    try check([5, 5], "float4 r = both(3, 2); o[0] = r.x; o[1] = r.w;", prelude: storage)
    try check([1, 4, 0], "o[0] = one().z; o[1] = positive(4).y; o[2] = positive(-1).z;", prelude: storage)
    try check(
      [2, 3, 0.5], "float2 a = 2, b[2] = {1, 3}; o[0] = a.y; o[1] = b[1].x; o[2] = offsets.z;", prelude: storage)
    try check([6, 6, 1], "int n = 3; float3 v = n; v *= 2; o[0] = v.x; o[1] = v.z; v = v.x > 5 ? 1 : 0; o[2] = v.y;")
    try check([4, 9], "bfloat2 v = bfloat(4.0f); uint2 u = 9; o[0] = v.y; o[1] = u.x;")
  }

  func testLanguageVersions() throws {
    let h = try Harness(), out = try h.buffer([Float(0)])
    let source = Self.head + "kernel void k(device float *o [[buffer(0)]]) { o[0] = __METAL_VERSION__; }"
    let conditional =
      "#if __METAL_VERSION__ >= 320\n#define VALUE 2\n#else\n#define VALUE 1\n#endif\n" + Self.head
      + "kernel void k(device float *o [[buffer(0)]]) { o[0] = VALUE; }"
    for (version, number, branch) in [
      (MTLLanguageVersion.version2_4, Float(240), Float(1)), (.version3_0, 300, 1), (.version3_1, 310, 1),
      (.version3_2, 320, 2), (.version4_0, 400, 2),
    ] {
      let options = MTLCompileOptions()
      options.languageVersion = version
      for (text, expected) in [(source, number), (conditional, branch)] {
        let library = try h.device.makeLibrary(source: text, options: options)
        let p = try h.device.makeComputePipelineState(function: XCTUnwrap(library.makeFunction(name: "k")))
        _ = try h.run(p, [out], groups: 1, threads: 1)
        XCTAssertEqual(out.array(of: Float.self), [expected], "\(version)")
      }
    }
  }

  /// Functions that a template takes, known when the kernel is compiled.
  func testFunctionsAsTemplateArguments() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 8)
    let source =
      Self.head + """
        struct block_s4 { half d; uchar q[2]; };
        template <typename T> void expand_f32(device const float4 *p, short i, thread T &r) { r = (T)p[i]; }
        template <typename T> void expand_s4(device const block_s4 *p, short i, thread T &r) {
          for (short k = 0; k < 4; ++k) r[k] = float(p->d) * (int(p->q[k / 2] >> 4 * (k % 2) & 15) - 8);
        }
        template <typename block, short n, void (*expand)(device const block *, short, thread float4 &)>
        kernel void spread(device const block *x [[buffer(0)]], device float4 *o [[buffer(1)]],
                           ushort t [[thread_index_in_threadgroup]]) {
          float4 r;
          expand(x + t / n, t % n, r);
          o[t] = r;
        }
        typedef decltype(spread<float4, 1, expand_f32<float4>>) spread_t;
        template [[host_name("spread_f32")]] kernel spread_t spread<float4, 1, expand_f32<float4>>;
        template [[host_name("spread_s4")]] kernel decltype(spread<block_s4, 1, expand_s4<float4>>)
            spread<block_s4, 1, expand_s4<float4>>;
        """
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      _ = try h.run(
        h.pipeline(source, "spread_f32", mode: mode), [h.buffer((0..<8).map(Float.init)), out], groups: 1, threads: 2)
      XCTAssertEqual(out.array(of: Float.self), (0..<8).map(Float.init))
      let two = Float16(2).bitPattern
      let packed: [UInt8] = [
        UInt8(two & 255), UInt8(two >> 8), 0x98, 0xf0, UInt8(two & 255), UInt8(two >> 8), 0x88, 0x88,
      ]
      _ = try h.run(h.pipeline(source, "spread_s4", mode: mode), [h.buffer(packed), out], groups: 1, threads: 2)
      XCTAssertEqual(out.array(of: Float.self), [0, 2, -16, 14, 0, 0, 0, 0])
    }
  }

  func testMatricesOfBfloatAndDesignators() throws {
    let prelude = """
      typedef matrix<bfloat, 4, 4> bfloat4x4;
      typedef matrix<bfloat, 2, 4> bfloat2x4;
      constant short steps[4] = {[0] = 1, [1] = 3, [3] = 9};
      constant float2 places[2] = {[0] = {1, 2}, [1] = {3, 4}};
      template <typename M> float trace(thread const M &m) {
        float s = 0;
        for (short i = 0; i < 4; ++i) s += float(m[i][i]);
        return s;
      }
      """
    try check(
      [10, 1, 9, 0, 4],
      "bfloat4x4 m = bfloat4x4(bfloat(2.5f)); bfloat2x4 n; n[1][3] = bfloat(1.0f); o[0] = trace(m); "
        + "o[1] = float(n[1][3]); o[2] = steps[3]; o[3] = steps[2]; o[4] = places[1].y;", prelude: prelude)
  }

  /// A SIMD group's attention for one query, as several projects write it: function constants, elements of matrices by
  /// reference, an explicit instantiation by decltype.
  func testElementsByReference() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 64)
    let source =
      Self.head + """
        #include <metal_simdgroup_matrix>
        constant bool doubles [[function_constant(200)]];
        constant int extra [[function_constant(201)]];
        template <typename T> struct Frag {
          typedef vec<T, 2> frag_type;
          typedef simdgroup_matrix<T, 8, 8> mat_type;
          METAL_FUNC static constexpr short2 place(ushort lane) {
            const short qid = lane / 4, row = (qid & 4) + (lane / 2) % 4, column = (qid & 2) * 2 + (lane % 2) * 2;
            return short2{column, row};
          }
          METAL_FUNC static void mma(
              thread frag_type &d, thread frag_type &a, thread frag_type &b, thread frag_type &c) {
            mat_type dm, am, bm, cm;
            reinterpret_cast<thread frag_type &>(am.thread_elements()) = a;
            reinterpret_cast<thread frag_type &>(bm.thread_elements()) = b;
            reinterpret_cast<thread frag_type &>(cm.thread_elements()) = c;
            simdgroup_multiply_accumulate(dm, am, bm, cm);
            d = reinterpret_cast<thread frag_type &>(dm.thread_elements());
          }
        };
        template <typename T, int N>
        [[kernel, max_total_threads_per_threadgroup(32)]] void product(device const T *a [[buffer(0)]],
            device float *o [[buffer(1)]], uint lane [[thread_index_in_simdgroup]]) {
          typedef Frag<float> F;
          const short2 p = F::place(lane);
          typename F::frag_type x, y, sum = 0;
          for (short i = 0; i < 2; ++i) {
            x[i] = float(a[p.y * N + p.x + i]);
            y[i] = p.y == p.x + i ? 1 : 0;
          }
          F::mma(sum, x, y, sum);
          if (doubles) F::mma(sum, x, y, sum);
          for (short i = 0; i < 2; ++i) o[p.y * N + p.x + i] = sum[i] + extra;
        }
        template [[host_name("product_f32")]] [[kernel]] decltype(product<float, 8>) product<float, 8>;
        template [[host_name("product_bf16")]] [[kernel]] decltype(product<bfloat, 8>) product<bfloat, 8>;
        """
    let x = (0..<64).map { Float($0 % 17) }
    var (doubles, extra) = (true, Int32(3))
    let constants = MTLFunctionConstantValues()
    constants.setConstantValue(&doubles, type: .bool, index: 200)
    constants.setConstantValue(&extra, type: .int, index: 201)
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      for (name, a) in [
        ("product_f32", try h.buffer(x)), ("product_bf16", try h.buffer(x.map { UInt16($0.bitPattern >> 16) })),
      ] {
        _ = try h.run(h.pipeline(source, name, constants: constants, mode: mode), [a, out], groups: 1, threads: 32)
        XCTAssertEqual(out.array(of: Float.self), x.map { 2 * $0 + 3 }, "\(name) \(mode)")
      }
    }
  }
}
