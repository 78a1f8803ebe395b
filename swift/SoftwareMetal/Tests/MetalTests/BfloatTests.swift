// bfloat has conversions and arithmetic, and no function of Apple's library: a scalar becomes float, a vector matches
// nothing. (ml-explore/mlx's bf16_math.h says so, and Apple's diagnostics list no candidate of bfloat.)
import Metal
import XCTest

final class BfloatTests: XCTestCase {
  static let head = "#include <metal_stdlib>\nusing namespace metal;\n"

  /// Calls by family, of x, y, z.
  static let families: [(name: String, arguments: String, functions: [String])] = [
    (
      "functions of one number", "x",
      [
        "exp", "exp2", "exp10", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
        "tanh", "asinh", "acosh", "atanh", "sinpi", "cospi", "tanpi", "sqrt", "rsqrt", "ceil", "floor", "rint", "round",
        "trunc", "fabs", "abs", "fract", "sign", "saturate", "fast::exp2", "precise::sqrt",
      ]
    ),
    (
      "functions of two numbers", "x, y",
      [
        "pow", "powr", "atan2", "fmod", "divide", "fmin", "fmax", "min", "max", "fdim", "copysign", "nextafter", "step",
      ]
    ),
    (
      "functions of three numbers", "x, y, z",
      ["fma", "clamp", "mix", "smoothstep", "fmin3", "fmax3", "min3", "max3", "median3"]
    ),
    ("select", "x, y, m", ["select"]),
    (
      "SIMD-group functions", "x",
      ["simd_sum", "simd_max", "simd_min", "simd_prefix_exclusive_sum", "simd_broadcast_first", "quad_sum"]
    ),
    ("shuffles", "x, 1", ["simd_shuffle", "simd_shuffle_xor", "simd_shuffle_down", "simd_broadcast", "quad_shuffle"]),
  ]
  /// Functions of vectors alone, and those whose result is no float.
  static let others = [
    "dot(x, y)", "length(x)", "distance(x, y)", "normalize(x)", "cross(bfloat3(1.0bf), bfloat3(2.0bf))", "isnan(x)",
    "isinf(x)", "isfinite(x)", "isnormal(x)", "signbit(x)", "min(x, bfloat(1.0f))", "clamp(x, 0.0bf, 1.0bf)",
    "mix(x, y, 1.0bf)",
  ]

  private func refuses(_ h: Harness, _ body: String, line: UInt = #line) {
    let source =
      Self.head + "kernel void k(device bfloat2 *a [[buffer(0)]], device bfloat *b [[buffer(1)]]) { \(body) }"
    XCTAssertThrowsError(try h.library(source), body, line: line) { e in
      XCTAssertEqual((e as? MTLLibraryError)?.code, .compileFailure, body, line: line)
      XCTAssertTrue("\(e)".contains("error:") && !"\(e)".contains("stand-in"), "\(body): \(e)", line: line)
    }
  }

  func testVectorsMatchNoFunction() throws {
    let h = try Harness(), declare = "bfloat2 x = a[0], y = a[1], z = a[2]; bool2 m = bool2(true, false); "
    for family in Self.families {
      for function in family.functions { refuses(h, declare + "\(function)(\(family.arguments));") }
    }
    for call in Self.others { refuses(h, declare + "\(call);") }
  }

  func testResultsOfScalarsAreFloat() throws {
    let h = try Harness(), declare = "bfloat x = b[0], y = b[1], z = b[2]; bool m = true; "
    let calls = Self.families.flatMap { f in f.functions.map { "\($0)(\(f.arguments))" } }
    // Together they compile, so each refusal is that of the conversion.
    let source =
      Self.head + "template <class T> struct is_float { static_assert(is_same_v<T, float>, \"\"); };\n"
      + "kernel void k(device bfloat *b [[buffer(0)]], device float *o [[buffer(1)]]) { \(declare)"
      + calls.map { "is_float<decltype(\($0))>(); *o += \($0); " }.joined()
      + "*o += isnan(x) + isinf(x) + isfinite(x) + isnormal(x) + signbit(x) + max(x, 1.0f) + ldexp(x, 3); }"
    _ = try h.pipeline(source, "k")
    for call in ["exp(x)", "max(x, y)", "fma(x, y, z)", "select(x, y, m)", "simd_sum(x)", "0.1f", "half(1.5f)"] {
      refuses(h, declare + "bfloat r = \(call); b[0] = r;")
      refuses(h, declare + "b[0] = \(call);")
    }
    refuses(h, declare + "half r = x; b[0] = bfloat(r);")
  }

  func testValues() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 8)
    let source =
      Self.head + """
        kernel void k(device float *o [[buffer(0)]]) {
          bfloat x = bfloat(2.0f), y = 3.0bf;
          o[0] = exp2(x); o[1] = max(x, y); o[2] = fma(x, y, x); o[3] = float(x * y + x);
          o[4] = float(bfloat(sqrt(x))); o[5] = select(x, y, true); o[6] = abs(-x); o[7] = clamp(y, x, 2.5f);
        }
        """
    _ = try h.run(h.pipeline(source, "k"), [out], groups: 1, threads: 1)
    XCTAssertEqual(out.array(of: Float.self), [4, 3, 8, 8, 1.4140625, 3, 2, 2.5])
  }

  /// Programs fill the gap themselves, in the library's namespace.
  func testProgramsAddOverloads() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 3)
    let source =
      Self.head + """
        namespace metal {
        METAL_FUNC bfloat exp2(bfloat x) { return static_cast<bfloat>(exp2(static_cast<float>(x))); }
        METAL_FUNC bfloat max(bfloat x, bfloat y) { return x < y ? y : x; }
        METAL_FUNC bfloat simd_sum(bfloat x) { return static_cast<bfloat>(simd_sum(static_cast<float>(x))); }
        METAL_FUNC bfloat simd_shuffle_xor(bfloat x, ushort m) {
          return as_type<bfloat>(simd_shuffle_xor(as_type<ushort>(x), m));
        }
        }
        kernel void k(device float *o [[buffer(0)]], ushort l [[thread_index_in_simdgroup]]) {
          bfloat x = bfloat(float(l)), e = exp2(max(x, 1.0bf)), s = simd_sum(x), n = simd_shuffle_xor(x, 1);
          if (l == 3) { o[0] = e; o[1] = s; o[2] = n; }
        }
        """
    _ = try h.run(h.pipeline(source, "k"), [out], groups: 1, threads: 32)
    XCTAssertEqual(out.array(of: Float.self), [8, 496, 2])
  }
}
