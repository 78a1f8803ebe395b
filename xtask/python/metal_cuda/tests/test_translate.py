"""Each construct of the texts, and what is refused."""

from __future__ import annotations

import pytest

from metal_cuda.translate import Kernel, Refused, translate

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
PARAMETERS = "device float *x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]"


def body(text: str, parameters: str = PARAMETERS) -> str:
    """The translation of a kernel's body."""
    source = translate(f"{HEAD}kernel void k({parameters}) {{\n{text}\n}}").source
    return source[source.index("{ ") + 2 : -1]


def code(text: str) -> str:
    """Without the declarations of the parameters."""
    return body(text).partition(";")[2].strip()


@pytest.mark.parametrize(
    ("metal", "cuda"),
    [
        ("threadgroup float4 tile[576];", "__shared__ float4 tile[576];"),
        ("threadgroup vec<half, 2> tile[8][32];", "__shared__ vec<half, 2> tile[8][32];"),
        ("threadgroup half *p = (threadgroup half *)tile;", "half *p = (half *)tile;"),
        ("const threadgroup float *p = tile + 1;", "const float *p = tile + 1;"),
        ("const device half *p = (const device half *)x;", "const half *p = (const half *)x;"),
        ("float y = v.x;", "float y = v.x;"),
        ("float2 y = v.xz;", "float2 y = v.get_xz();"),
        ("v.xz = y;", "v.set_xz() = y;"),
        ("v.yw += y;", "v.set_yw() += y;"),
        ("bool b = v.xy == w.xy;", "bool b = v.get_xy() == w.get_xy();"),
        ("y = metal::exp2(y);", "y = msl::exp2(y);"),
        ("#pragma clang loop unroll(full)\nfor (;;) {}", "#pragma unroll\nfor (;;) {}"),
        ("#pragma clang loop unroll(disable)\nfor (;;) {}", "#pragma unroll 1\nfor (;;) {}"),
        ("x[0] = 1.5e-3f; // v.xy, threadgroup float t[1];", "x[0] = 1.5e-3f;"),
        ("x[0] = a < b ? 0x1p-24f : .5f;", "x[0] = a < b ? 0x1p-24f : .5f;"),
    ],
)
def test_statements(metal: str, cuda: str) -> None:
    assert code(metal) == cuda


def test_parameters_are_pointers_in_order_of_index() -> None:
    result = translate(
        HEAD + "struct A { int n; };\n"
        "kernel void f(\n  constant A &args [[buffer(30)]],\n  const device half *q [[buffer(2)]],\n"
        "  device float *o [[buffer(0)]],\n  threadgroup float *row [[threadgroup(0)]],\n"
        "  uint3 at [[threadgroup_position_in_grid]],\n  ushort lane [[thread_index_in_simdgroup]])\n{\n}"
    )
    assert result.kernels == {"f": Kernel("f", (0, 2, 30), dynamic=True)}
    assert "void f(float * o, const half * q, const A *args_at)" in result.source
    assert "const A &args = *args_at;" in result.source
    assert "float * row = (float *)dynamic_memory;" in result.source
    assert "const uint3 at = uint3(blockIdx.x, blockIdx.y, blockIdx.z);" in result.source
    assert "const ushort lane = ushort(threadIdx.x & 31);" in result.source


def test_constants_of_a_program_are_constants() -> None:
    source = translate(
        HEAD + "constant uint A = 0, B = 1;\nstatic int f(constant uint &x) { return x; }"
    ).source
    assert "static constexpr uint A = 0, B = 1;" in source
    assert "static int f(const uint &x)" in source


def test_bounds_of_threads() -> None:
    source = translate(
        f"{HEAD}kernel void k({PARAMETERS}) [[max_total_threads_per_threadgroup(128)]] {{}}"
    ).source
    assert "__global__ __launch_bounds__(128) void k(" in source


def test_lines_stay_where_they_were() -> None:
    text = (
        HEAD
        + "\nkernel void k(\n  device float *x [[buffer(0)]],\n  uint i [[thread_index_in_threadgroup]])\n{\n  x[i] = 1;\n}\n"
    )
    lines = translate(text).source.splitlines()
    assert lines[text.splitlines().index("  x[i] = 1;")] == "  x[i] = 1;"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#include <metal_texture>", "line 1: #include <metal_texture> is not known"),
        ("#pragma omp parallel", "#pragma omp parallel is not known"),
        ("atomic_uint n;", "atomic_uint has no translation"),
        ("constant int c [[function_constant(0)]];", "[[function_constant(0)]] is not known"),
        ("kernel float f(device float *x [[buffer(0)]]) {}", "a kernel returns float"),
        ("kernel void f(device float *x) {}", "has no attribute"),
        (
            "kernel void f(uint i [[thread_position_in_simd]]) {}",
            "[[thread_position_in_simd]] is not known",
        ),
        ("kernel void f(threadgroup int *x [[threadgroup(1)]]) {}", "only 0 is translated"),
        ("kernel void f(uint2 i [[thread_index_in_threadgroup]]) {}", "of type uint2"),
        ("kernel void f(device float *x [[buffer(0)]]);", "has no body"),
        ("kernel void f(device float *x [[buffer(0)]] {}", "is not closed"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(Refused, match="line 1: ") as refused:
        translate(text)
    assert message in str(refused.value)
