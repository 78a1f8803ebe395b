// The front end refuses what Metal refuses, and says where.
import Metal
import XCTest

final class RefusalTests: XCTestCase {
  /// Name, program. `K` stands for a kernel with one device float pointer `a`.
  static let refused: [(String, String)] = [
    ("device pointer in a thread pointer", K("thread float *p = a; *p = 1;")),
    (
      "threadgroup pointer in a device pointer",
      "kernel void k(device float *a [[buffer(0)]], threadgroup float *t [[threadgroup(0)]]) { device float *p = t; "
        + "*p = 1; }"
    ),
    (
      "cast from threadgroup to device",
      "kernel void k(device float *a [[buffer(0)]], threadgroup float *t [[threadgroup(0)]]) { "
        + "device float *p = (device float *)t; *p = 1; }"
    ),
    ("cast from device to thread", K("thread float *p = (thread float *)a; *p = 1;")),
    (
      "reinterpret_cast across address spaces",
      K("threadgroup float *p = reinterpret_cast<threadgroup float *>(a); *p = 1;")
    ),
    ("pointer parameter without an address space", "void f(float *p) { *p = 1; }" + K("float x; f(&x); a[0] = x;")),
    ("reference parameter without an address space", "void f(float4 &p) { p = 1; }" + K("float4 x; f(x); a[0] = x.x;")),
    ("kernel argument without an address space", "kernel void k(float *a [[buffer(0)]]) { a[0] = 1; }"),
    ("local pointer without an address space", K("float *p = a; *p = 1;")),
    ("outer pointer without an address space", K("device float **pp = &a; **pp = 1;")),
    (
      "max of unlike types",
      "kernel void k(device float *a [[buffer(0)]], uint g [[thread_position_in_grid]]) { a[0] = max(g, 3.0f); }"
    ),
    (
      "min of unlike widths",
      "kernel void k(device float *a [[buffer(0)]], uint g [[thread_position_in_grid]]) { a[0] = min(ushort(1), g); }"
    ),
    ("write to constant memory", "kernel void k(constant float *a [[buffer(0)]]) { a[0] = 1; }"),
    ("write through a const pointer", "kernel void k(device const float *a [[buffer(0)]]) { a[0] = 1; }"),
    ("double", K("double x = a[0]; a[0] = x;")),
    (
      "array sized by a function constant",
      "constant uint N [[function_constant(0)]];" + K("float x[N]; x[0] = 1; a[0] = x[0];")
    ),
    ("mutable global", "float counter = 0;" + K("a[0] = counter++;")),
    ("constexpr global outside of constant memory", "constexpr float c = 2;" + K("a[0] = c;")),
    ("static global outside of constant memory", "static const int table[2] = {1, 2};" + K("a[0] = table[1];")),
    ("recursion", "int f(int n) { return n < 2 ? 1 : n * f(n - 1); }" + K("a[0] = f(3);")),
    (
      "mutual recursion",
      "int g(int n); int f(int n) { return n < 2 ? 1 : g(n - 1); } int g(int n) { return f(n - 1); }"
        + K("a[0] = f(3);")
    ),
    ("float vector in a half vector", "kernel void k(device half2 *a [[buffer(0)]]) { float2 x = 1; a[0] = x; }"),
    (
      "half plus bfloat",
      "kernel void k(device half *a [[buffer(0)]], device bfloat *b [[buffer(1)]]) { a[0] = a[1] + b[0]; }"
    ),
    ("the C++ library", K("a[0] = std::max(1.f, a[1]);")),
    ("printf", K("printf(\"x\"); a[0] = 0;")),
    ("new", K("thread float *p = new float[4]; a[0] = p[0];")),
    ("if on a vector of bool", "kernel void k(device float4 *a [[buffer(0)]]) { if (a[0] < a[1]) a[0] = 1; }"),
    ("vector in a shorter vector", "kernel void k(device float4 *a [[buffer(0)]]) { float3 x = a[0]; a[0].xyz = x; }"),
    ("too few elements for a vector", K("float4 x = float4(1.0f, 2.0f); a[0] = x.x;")),
    ("kernel argument without an attribute", "kernel void k(device float *a [[buffer(0)]], uint g) { a[g] = 1; }"),
    (
      "unknown kernel attribute",
      "kernel void k(device float *a [[buffer(0)]], uint g [[thread_position_in_gird]]) { a[g] = 1; }"
    ),
    (
      "signed thread position",
      "kernel void k(device float *a [[buffer(0)]], int g [[thread_position_in_grid]]) { a[g] = 1; }"
    ),
    (
      "buffer index used twice",
      "kernel void k(device float *a [[buffer(0)]], device float *b [[buffer(0)]]) { a[0] = b[0]; }"
    ),
    ("buffer index out of bounds", "kernel void k(device float *a [[buffer(31)]]) { a[0] = 1; }"),
    ("kernel that returns a value", "kernel int k(device float *a [[buffer(0)]]) { a[0] = 1; return 1; }"),
    ("virtual function", "struct S { virtual float f() { return 1; } };" + K("S s; a[0] = s.f();")),
    ("goto", K("a[0] = 1; goto x; x: a[1] = 2;")),
    ("exceptions", K("try { a[0] = 1; } catch (...) {}")),
    ("throw", K("throw 1; a[0] = 1;")),
    ("lambda", K("auto f = [&](float x) { return x * 2; }; a[0] = f(a[1]);")),
    (
      "lambda as an argument",
      "template <class F> float call(F f) { return f(1); }" + K("a[0] = call([](float x) { return x; });")
    ),
    ("function pointer", "float f(float x) { return x; }" + K("float (*p)(float) = f; a[0] = p(1);")),
    (
      "member function of a device object",
      "struct S { float x; float get() const { return x; } }; kernel void k(device S *a [[buffer(0)]], "
        + "device float *o [[buffer(1)]]) { o[0] = a[0].get(); }"
    ),
    ("initialised threadgroup variable", K("threadgroup float t[4] = {1, 2, 3, 4}; a[0] = t[0];")),
    (
      "threadgroup variable outside of a kernel",
      "float f() { threadgroup float t[4]; t[0] = 1; return t[0]; }" + K("a[0] = f();")
    ),
    ("undeclared name", K("a[0] = nothing;")),
    ("missing semicolon", K("a[0] = 1")),
    ("typeid", K("a[0] = typeid(float) == typeid(int);")),
    ("thread-local storage", "thread_local float t;" + K("a[0] = t;")),
    ("inline assembly", K("__asm(\"nop\"); a[0] = 1;")),
    ("undefined function", "float f(float);" + K("a[0] = f(1);")),
    ("matrix of int", K("simdgroup_matrix<int, 8, 8> m; a[0] = m.thread_elements()[0];")),
    (
      "simdgroup_load of another type",
      "kernel void k(device half *a [[buffer(0)]]) { simdgroup_float8x8 m; simdgroup_load(m, a, 8); "
        + "simdgroup_store(m, (device float *)a, 8); }"
    ),
    (
      "simdgroup_store to constant memory",
      "kernel void k(constant float *a [[buffer(0)]]) { simdgroup_float8x8 m(1.0f); simdgroup_store(m, a, 8); }"
    ),
    ("missing header", "#include \"nothing.h\"\n" + K("a[0] = 1;")),
    ("two kernels of one name", K("a[0] = 1;") + K("a[0] = 2;")),
    (
      "function constant index used twice",
      "constant int A [[function_constant(0)]]; constant int B [[function_constant(0)]];" + K("a[0] = A + B;")
    ),
    (
      "non-atomic operand of an atomic",
      "kernel void k(device uint *a [[buffer(0)]]) { atomic_fetch_add_explicit(a, 1u, memory_order_relaxed); }"
    ),
    (
      "sequentially consistent atomic",
      "kernel void k(device atomic_uint *a [[buffer(0)]]) { atomic_fetch_add_explicit(a, 1u, memory_order_seq_cst); }"
    ),
    (
      "dynamic_cast",
      "struct A { int x; }; struct B : A {};" + K("B b; thread A *p = &b; a[0] = dynamic_cast<thread B *>(p)->x;")
    ),
    ("OpenCL spelling of an address space", "kernel void k(__global float *a [[buffer(0)]]) { a[0] = 1; }"),
  ]
  static func K(_ body: String) -> String { "kernel void k(device float *a [[buffer(0)]]) { \(body) }" }

  func testRefused() throws {
    let h = try Harness()
    for (name, source) in Self.refused {
      XCTAssertThrowsError(try h.library("#include <metal_stdlib>\nusing namespace metal;\n" + source), name) { e in
        XCTAssertEqual((e as? MTLLibraryError)?.code, .compileFailure, name)
        XCTAssertTrue("\(e)".contains("error:"), "\(name): \(e)")
        XCTAssertFalse("\(e)".contains("stand-in"), "\(name): \(e)")
      }
    }
    print("refused programs: \(Self.refused.count)")
  }
  func testDiagnosticsSpeakOfTheProgram() throws {
    let h = try Harness(),
      source =
        "using namespace metal;\nkernel void k(device float *a [[buffer(0)]]) {\n  a[0] = 1;\n  thread float *p "
        + "= a;\n}\n"
    XCTAssertThrowsError(try h.library(source)) { e in
      XCTAssertTrue("\(e)".contains("program_source:4:"), "\(e)")
      XCTAssertFalse("\(e)".contains("__"), "\(e)")
      XCTAssertEqual((e as NSError).domain, MTLLibraryErrorDomain)
      XCTAssertEqual((e as NSError).code, 3)
    }
  }
  func testInlineAIRCanBeRefused() throws {
    let h = try Harness()
    SoftwareMetal.options.allowsInlineAIR = false
    defer { SoftwareMetal.options.allowsInlineAIR = true }
    XCTAssertThrowsError(try h.library(AsyncCopy.source))
  }
}
