// Arithmetic as Apple's GPUs do it: contraction, subnormal numbers, and the errors of functions.
import Foundation
import Metal
import XCTest

final class ArithmeticTests: XCTestCase {
  static let head = "#include <metal_stdlib>\nusing namespace metal;\n"

  /// Bits that a kernel makes of others, a thread each: `x` and `y` are floats, `r` is the result.
  private func bits(
    _ body: String, _ x: [UInt32], _ y: [UInt32] = [], prelude: String = "", options: MTLCompileOptions? = nil,
    mode: SoftwareMetal.Mode = .fast
  ) throws -> [UInt32] {
    let h = try Harness(), out = try h.buffer(of: UInt32.self, count: x.count)
    let source =
      Self.head + prelude + """
        \nkernel void k(device const uint *a [[buffer(0)]], device const uint *b [[buffer(1)]],
                        device uint *o [[buffer(2)]], uint t [[thread_position_in_grid]]) {
          const float x = as_type<float>(a[t]), y = as_type<float>(b[t]);
          float r = 0;
          \(body)
          o[t] = as_type<uint>(r);
        }
        """
    SoftwareMetal.options.mode = mode
    defer { SoftwareMetal.options.mode = .checked }
    let library = try h.device.makeLibrary(source: source, options: options)
    let p = try h.device.makeComputePipelineState(function: XCTUnwrap(library.makeFunction(name: "k")))
    _ = try h.run(p, [h.buffer(x), h.buffer(y.isEmpty ? x : y), out], groups: 1, threads: x.count)
    return out.array(of: UInt32.self)
  }

  func testContraction() throws {
    let x = Float(1 + 0x1p-12).bitPattern, y = x
    let body = "r = x * y - 1.00048828125f;"
    for mode in [SoftwareMetal.Mode.fast, .checked] {
      XCTAssertEqual(try bits(body, [x], [y], mode: mode), [Float(0x1p-24).bitPattern], "contracted")
      for pragma in ["#pragma METAL fp contract(off)", "#if 1\n#pragma METAL fp contract(off)\n#endif"] {
        XCTAssertEqual(try bits(body, [x], [y], prelude: pragma, mode: mode), [0], pragma)
      }
      XCTAssertEqual(
        try bits("{\n#pragma METAL fp contract(off)\n\(body) }", [x], [y], mode: mode), [0], "in a block")
    }
  }

  func testSubnormals() throws {
    let small: [UInt32] = [1, 0x0000_4000, 0x007f_ffff, 0x8000_0001, 0x0080_0000]
    let zeros: [UInt32] = [0, 0, 0, 0x8000_0000, 0x0080_0000]
    for mode in [SoftwareMetal.Mode.fast, .counted, .checked] {
      XCTAssertEqual(try bits("r = x * 1.5f / 1.5f;", [0x007f_ffff], mode: mode), [0x007f_ffff], "kept by default")
      SoftwareMetal.options.flushesSubnormals = true
      defer { SoftwareMetal.options.flushesSubnormals = false }
      XCTAssertEqual(try bits("r = x * y;", small, [UInt32](repeating: 0x3f80_0000, count: 5), mode: mode), zeros)
      XCTAssertEqual(try bits("r = x * 0.5f;", [0x0080_0000, 0x0100_0000], mode: mode), [0, 0x0080_0000], "a result")
      XCTAssertEqual(try bits("r = as_type<float>(1u) * 1.5f;", [0], mode: mode), [0], "a constant")
      XCTAssertEqual(try bits("r = x == 0 ? 1 : 2;", [1], mode: mode), [Float(1).bitPattern], "an operand")
      XCTAssertEqual(try bits("r = x;", small, mode: mode), small, "a copy")
      // bfloat is as single precision is, half is not.
      XCTAssertEqual(
        try bits("r = float(bfloat(x) * 2.0bf);", [0x0001_0000, 0x0080_0000], mode: mode), [0, 0x0100_0000])
      let half = Float(Float16(0x3p-24)).bitPattern
      XCTAssertEqual(try bits("half h = half(x); h = h * 2.0h - h; r = h;", [half], mode: mode), [half])
      XCTAssertEqual(
        try bits("half h = half(x); r = as_type<ushort>(h) == 3 ? 1 : 2;", [half], mode: mode), [Float(1).bitPattern])
    }
    let after = Float(bitPattern: 3) * 1.5
    XCTAssertEqual(after.bitPattern, 4, "the caller's own arithmetic is left alone")
  }

  func testSubnormalsInMatrices() throws {
    let h = try Harness(), out = try h.buffer(of: Float.self, count: 64), small = Float(bitPattern: 0x0040_0000)
    let source =
      Self.head + """
        kernel void k(device float *a [[buffer(0)]], device float *o [[buffer(1)]]) {
          simdgroup_float8x8 m, one(1.0f), r;
          simdgroup_load(m, a, 8);
          simdgroup_multiply(r, m, one);
          simdgroup_store(r, o, 8);
        }
        """
    for flush in [false, true] {
      SoftwareMetal.options.flushesSubnormals = flush
      defer { SoftwareMetal.options.flushesSubnormals = false }
      let a = try h.buffer([Float](repeating: small, count: 64))
      _ = try h.run(h.pipeline(source, "k"), [a, out], groups: 1, threads: 32)
      XCTAssertEqual(out.array(of: Float.self), [Float](repeating: flush ? 0 : small, count: 64))
    }
  }

  /// The largest distance from the exact result in units of the last place.
  private func worst(
    _ call: String, _ x: [Float], _ exact: (Double) -> Double, options: MTLCompileOptions? = nil
  ) throws -> (ulps: Double, absolute: Double) {
    SoftwareMetal.options.functionErrors = true
    defer { SoftwareMetal.options.functionErrors = false }
    let once = try bits("r = \(call);", x.map(\.bitPattern), options: options)
    XCTAssertEqual(once, try bits("r = \(call);", x.map(\.bitPattern), options: options), "\(call): the same again")
    var result = (ulps: 0.0, absolute: 0.0)
    for (b, x) in zip(once, x) {
      let e = exact(Double(x)), error = abs(Double(Float(bitPattern: b)) - e)
      result = (max(result.ulps, error / Double(Float(e).ulp)), max(result.absolute, error))
    }
    return result
  }

  func testErrorsOfFunctions() throws {
    let near = (0..<256).map { Float($0) / 256 }, far = (0..<256).map { -Float($0) / 4 }
    let positive = (1...256).map { Float($0) * 3.7 }, aboutOne = (0..<256).map { 0.5 + Float($0) / 256 }
    func check(
      _ call: String, _ x: [Float], _ range: ClosedRange<Double>, options: MTLCompileOptions? = nil,
      line: UInt = #line, _ exact: (Double) -> Double
    ) throws {
      let ulps = try worst(call, x, exact, options: options).ulps
      XCTAssertTrue(range.contains(ulps), "\(call): \(ulps) units in the last place", line: line)
    }
    // Half an ulp beside the bound is that of rounding.
    try check("fast::exp2(x)", near, 2...5.6) { exp2($0) }
    try check("exp2(x)", near, 2...5.6) { exp2($0) }
    try check("fast::exp2(x)", far, 60...131) { exp2($0) }
    try check("precise::exp2(x)", far, 2...4.6) { exp2($0) }
    try check("fast::exp(x)", near, 2...5.6) { exp($0) }
    try check("fast::rsqrt(x)", positive, 1...2.1) { 1 / $0.squareRoot() }
    try check("fast::sqrt(x)", positive, 1...4.6) { $0.squareRoot() }
    try check("precise::sqrt(x)", positive, 0...0.5) { $0.squareRoot() }
    try check("precise::rsqrt(x)", positive, 0...1.1) { 1 / $0.squareRoot() }
    try check("precise::divide(1.0f, x)", positive, 0...0.5) { 1 / $0 }
    try check("fast::divide(1.0f, x)", positive, 1...3) { 1 / $0 }
    try check("1.0f / x", positive, 0...0.5) { 1 / $0 }
    try check("fast::log(x)", positive.filter { $0 > 2 }, 1...3.6) { log($0) }
    try check("precise::log(x)", positive, 1...4.6) { log($0) }
    let log2Error = try worst("fast::log2(x)", aboutOne, log2).absolute
    XCTAssertTrue((0x1p-24...0x1p-22).contains(log2Error), "\(log2Error)")
    let sinError = try worst("fast::sin(x)", near, sin).absolute
    XCTAssertTrue((0x1p-15...0x1p-13).contains(sinError), "\(sinError)")
    let precise = MTLCompileOptions(), older = MTLCompileOptions()
    precise.mathFloatingPointFunctions = .precise
    older.fastMathEnabled = false
    for options in [precise, older] {
      try check("sqrt(x)", positive, 0...0.5, options: options) { $0.squareRoot() }
      try check("fast::sqrt(x)", positive, 1...4.6, options: options) { $0.squareRoot() }
    }
  }
  // Apple's GPUs honour infinities and NaN in functions.
  func testErrorsSpareSpecialValues() throws {
    SoftwareMetal.options.functionErrors = true
    defer { SoftwareMetal.options.functionErrors = false }
    let infinity = Float.infinity.bitPattern, minus = (-Float.infinity).bitPattern
    XCTAssertEqual(try bits("r = fast::exp2(x);", [minus, infinity]), [0, infinity])
    XCTAssertEqual(try bits("r = fast::log(x);", [0, infinity]), [minus, infinity])
    XCTAssertEqual(try bits("r = fast::sqrt(x);", [0, infinity]), [0, infinity])
    XCTAssertTrue(Float(bitPattern: try bits("r = fast::exp2(x);", [Float.nan.bitPattern])[0]).isNaN)
  }
}
