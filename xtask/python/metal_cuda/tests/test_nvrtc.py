"""The header before NVIDIA's compiler: what it takes, and what it must refuse as Apple's does."""

from __future__ import annotations

from pathlib import Path

import pytest

from metal_cuda import nvrtc
from metal_cuda.bundle import REPOSITORY
from metal_cuda.compile import refusal
from metal_cuda.programs import MODES, options_of
from metal_cuda.translate import translate

GOLDEN = REPOSITORY / "swift/MFABridge/Tests/AttentionKernelsTests/Golden"
HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"


def text(body: str, before: str = "") -> str:
    parameters = "device float4 *x [[buffer(0)]], device bfloat *b [[buffer(1)]], uint i [[thread_index_in_threadgroup]]"
    return f"{HEAD}{before}kernel void k({parameters}) {{ {body} }}"


@pytest.fixture
def file(tmp_path: Path):
    def write(content: str) -> Path:
        path = tmp_path / "text.metal"
        path.write_text(content)
        return path

    return write


@pytest.mark.parametrize(
    "body",
    [
        "float4 s = 0; s.xz = float2(1, 2); s.yw += s.xz; x[i] = s;",
        "half h = 1.5f; h += 1; x[i] = fast::exp2(float4(2)) * float(h) + precise::tanh(float4(1));",
        "bfloat y = bfloat(x[i].x); b[i] = y + bfloat(1); x[i] = float(y) * 2;",
        "vec<bfloat, 2> v(0); b[i] = v[0];",
        "x[i] = select(x[i], float4(0), x[i] == 0.0f);",
        "simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); x[i].x = m.thread_elements()[0];",
        "x[i].x = simd_max(simd_shuffle_xor(x[i].x, ushort(1))); threadgroup_barrier(mem_flags::mem_threadgroup);",
        "uint4 bits = as_type<uint4>(x[i]) & uint(0x7f800000); x[i] = as_type<float4>(bits);",
    ],
)
def test_takes(file, body: str) -> None:
    assert refusal(file(text(body))) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # Apple's select has no overload for bfloat: the fault that this gate was made for.
        ("vec<bfloat, 2> v(0); v = select(v, v, bool2(true)); b[i] = v[0];", "select"),
        ("vec<bfloat, 2> v(0); v = max(v, v); b[i] = v[0];", "max"),
        ("b[i] = 1.0f;", "no operator"),
        ("b[i] = half(1) * bfloat(1);", "no operator"),
        ("int2 n(1, 2); float2 f = n; x[i].xy = f;", "no suitable"),
        ("float2 a = 1; half2 c = 1; x[i].xy = a * c;", "no operator"),
        ("x[i] = y;", "undefined"),
        ("simdgroup_matrix<float, 4, 4> m; x[i].x = m.thread_elements()[0];", "8 x 8"),
        ("x[i] = as_type<float4>(1.0f);", "as_type"),
    ],
)
def test_refuses(file, body: str, message: str) -> None:
    assert message in (refusal(file(text(body))) or "taken")


def test_a_template_is_judged_where_it_is_used(file) -> None:
    """The front end alone instantiates templates: it sees what a whole compilation sees."""
    before = "template <typename T> struct S { vec<T, 2> f(vec<T, 2> a) { return select(a, a, bool2(true)); } };\n"
    good, bad = (
        text(f"S<{kind}> s; s.f(vec<{kind}, 2>(0));", before) for kind in ("half", "bfloat")
    )
    assert refusal(file(good)) is None
    assert "select" in (refusal(file(bad)) or "taken")
    assert "select" in (refusal(file(bad), machine_code=True) or "taken")


def test_a_text_without_kernels_is_no_text(file) -> None:
    assert refusal(file(HEAD)) == "the text has no kernel"


@pytest.mark.parametrize("name", ["prefill_options", "backwardKeyValue_quantized", "decode_int4"])
def test_machine_code_of_golden_texts(name: str) -> None:
    assert refusal(GOLDEN / f"{name}.metal.txt", machine_code=True) is None


def test_a_type_error_in_a_golden_text_is_refused(file) -> None:
    golden = (GOLDEN / "prefill_fp16.metal.txt").read_text()
    wrong = golden.replace("float2 output_excess[8];", "int2 output_excess[8];")
    assert wrong != golden
    assert "no " in (refusal(file(wrong)) or "taken")


def test_code_has_the_kernel() -> None:
    code, _ = nvrtc.build(translate(text("x[i] = 1;")).program(), "compute_90")
    assert b".entry k(" in code


@pytest.mark.parametrize("mode", MODES)
def test_a_text_may_forbid_contraction(mode: str) -> None:
    """As the texts that quantize do: their sums of two floats need every rounding."""
    body = "x[i].x = x[i].x * x[i].y + x[i].z;"
    for pragma, fused in (("", True), ("#pragma METAL fp contract(off)\n", False)):
        source = text(body, pragma)
        options = (*MODES[mode], "--diag-suppress=177,550", *options_of(source))
        ptx, _ = nvrtc.build(translate(source).program(), "compute_90", options)
        assert (b"fma.rn" in ptx) is fused
