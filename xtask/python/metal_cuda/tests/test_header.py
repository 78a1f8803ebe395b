"""The header's semantics, computed: a C++ compiler for processors takes it over cuda_on_host.h."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from metal_cuda.host import CompilerFailed, HostDevice
from metal_cuda.records import Launch

HEAD = "#include <metal_stdlib>\n#include <metal_simdgroup_matrix>\nusing namespace metal;\n"
LANES = 32


@pytest.fixture(scope="module")
def device() -> HostDevice:
    folder = os.environ.get("METAL_CUDA_LIBRARIES") or tempfile.mkdtemp()
    return HostDevice(Path(folder))


def run(
    device: HostDevice, body: str, *buffers: np.ndarray, threads: int = LANES, groups: int = 1
) -> None:
    """Runs a kernel's body on buffers a, b, c, … of their types."""
    kinds = {
        "f4": "float",
        "f2": "half",
        "u2": "ushort",
        "u4": "uint",
        "i4": "int",
        "i8": "long",
        "u1": "uchar",
    }
    parameters = [
        f"device {kinds[buffer.dtype.str[1:]]} *{name} [[buffer({index})]]"
        for index, (name, buffer) in enumerate(zip("abcdef", buffers))
    ]
    parameters += [
        "uint i [[thread_index_in_threadgroup]]",
        "uint3 at [[threadgroup_position_in_grid]]",
    ]
    text = f"{HEAD}kernel void k({', '.join(parameters)}) {{ {body} }}\n"
    launch = Launch(
        "k", "k", (groups, 1, 1), threads, {n: (n, 0) for n in range(len(buffers))}, {}, 0
    )
    device.launch(text, launch, [buffer.view(np.uint8) for buffer in buffers])


def test_half_rounds_to_the_nearest_even(device: HostDevice) -> None:
    rng = np.random.default_rng(1)
    scales = 2.0 ** rng.integers(-28, 18, 4096)
    x = (rng.standard_normal(4096) * scales).astype(np.float32)
    # Ties, the ends of the range, the smallest numbers.
    ties = np.arange(2048, 2148, dtype=np.float32) + 0.5
    edges = np.array(
        [0, -0.0, 65504, 65519, 65520, 1e6, np.inf, -np.inf, 2**-24, 2**-25, 3 * 2**-26, 6e-8],
        np.float32,
    )
    x = np.concatenate([x, ties, -ties, edges])
    stored, back = np.zeros(x.size, np.float16), np.zeros(x.size, np.float32)
    run(
        device,
        f"for (uint n = i; n < {x.size}; n += 32) {{ b[n] = half(a[n]); c[n] = float(b[n]); }}",
        x,
        stored,
        back,
    )
    with np.errstate(over="ignore"):
        assert np.array_equal(stored, x.astype(np.float16))
    assert np.array_equal(back, stored.astype(np.float32))


def test_bfloat_rounds_to_the_nearest_even(device: HostDevice) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate(
        [
            rng.standard_normal(4096).astype(np.float32),
            np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00008000, 0x80000001], np.uint32).view(
                np.float32
            ),
        ]
    )
    bits = np.zeros(x.size, np.uint16)
    run(
        device,
        f"for (uint n = i; n < {x.size}; n += 32) b[n] = as_type<ushort>(bfloat(a[n]));",
        x,
        bits,
    )
    word = x.view(np.uint32)
    assert np.array_equal(bits, ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype(np.uint16))


def test_types_of_small_floats(device: HostDevice) -> None:
    out = np.zeros(4, np.float32)
    run(
        device,
        """
        static_assert(same<decltype(half(1) * half(1)), half>::value, "");
        static_assert(same<decltype(half(1) * 1.0f), float>::value, "");
        static_assert(same<decltype(half(1) * 2), half>::value, "");
        static_assert(same<decltype(bfloat(1) * bfloat(1)), bfloat>::value, "");
        if (i == 0) { a[0] = half(2049) + half(0); a[1] = half(2048) + half(1); a[2] = half(2048) + 1.0f; a[3] = -half(1); }
    """.replace("static_assert(same", "static_assert(msl::same"),
        out,
    )
    assert out.tolist() == [2048, 2048, 2049, -1]


def test_vectors(device: HostDevice) -> None:
    out = np.zeros(16, np.float32)
    run(
        device,
        """
        if (i == 0) {
          float4 v = float4(1, 2, 3, 4);
          float2 p = v.xz, q = v.yw;
          a[0] = p.x; a[1] = p.y; a[2] = q.x; a[3] = q.y;
          v.xz = float2(10, 30);
          v.yw += float2(1);
          a[4] = v.x; a[5] = v.y; a[6] = v.z; a[7] = v.w;
          float4 w = v.xzyw;
          a[8] = w[1]; a[9] = w[2];
          int2 n = int2(float2(-1.9f, 2.9f));
          a[10] = n.x; a[11] = n.y;
          a[12] = dot(float2(1, 2), float2(3, 4));
          a[13] = any(float2(1, 2) > float2(1, 1)) ? 1 : 0;
          a[14] = all(float2(1, 2) > float2(1, 1)) ? 1 : 0;
          a[15] = select(float2(1, 2), float2(3, 4), bool2(false, true)).y;
        }
    """,
        out,
    )
    assert out.tolist() == [1, 3, 2, 4, 10, 3, 30, 5, 30, 3, -1, 2, 11, 1, 0, 4]


def test_alignment_of_vectors(device: HostDevice) -> None:
    sizes = np.zeros(6, np.int32)
    run(
        device,
        """
        if (i == 0) { a[0] = sizeof(float3); a[1] = alignof(float4); a[2] = sizeof(half4); a[3] = alignof(half2);
                      a[4] = sizeof(char4); a[5] = sizeof(ulong2); }
    """,
        sizes,
    )
    assert sizes.tolist() == [16, 16, 8, 4, 4, 16]


def test_integers(device: HostDevice) -> None:
    out = np.zeros(5, np.int32)
    run(
        device,
        """
        if (i == 0) { char n = char(0xf3); a[0] = n >> 4; a[1] = popcount(0xffu); a[2] = clamp(7, -3, 5); a[3] = abs(-4);
                      a[4] = int(char(uchar(0x9a) << 4)) >> 4; }
    """,
        out,
    )
    assert out.tolist() == [-1, 8, 5, 4, -6]


def test_shuffles_and_sums(device: HostDevice) -> None:
    x = np.arange(LANES, dtype=np.float32) * 3 - 20
    results = [np.zeros(LANES, np.float32) for _ in range(4)]
    run(
        device,
        """
        b[i] = simd_shuffle_xor(a[i], 5); c[i] = simd_sum(a[i]); d[i] = simd_max(a[i]) + simd_min(a[i]);
        e[i] = simd_shuffle(a[i], ushort((i + 7) % 32)) + (simd_any(i == 3) ? 1000 : 0) + (simd_all(i < 31) ? 5000 : 0);
    """,
        x,
        *results,
    )
    lanes = np.arange(LANES)
    assert np.array_equal(results[0], x[lanes ^ 5])
    assert np.array_equal(results[1], np.full(LANES, x.sum()))
    assert np.array_equal(results[2], np.full(LANES, x.max() + x.min()))
    assert np.array_equal(results[3], x[(lanes + 7) % 32] + 1000)


def test_barriers_order_threadgroups(device: HostDevice) -> None:
    """Each SIMD group reads what the next one wrote, again and again."""
    out = np.zeros(4 * LANES, np.uint32)
    run(
        device,
        """
        threadgroup uint turn[128];
        uint mine = i;
        for (int n = 0; n < 9; ++n) {
          turn[i] = mine;
          threadgroup_barrier(mem_flags::mem_threadgroup);
          mine = turn[(i + 32) % 128] + 1;
          threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        a[i] = mine;
    """,
        out,
        threads=128,
    )
    assert np.array_equal(out, (np.arange(128) + 9 * 32) % 128 + 9)


def test_matrices_are_in_apples_order(device: HostDevice) -> None:
    """The lane's elements by its number, as MLX and the first Metal FlashAttention have them."""
    x = np.arange(64, dtype=np.float32)
    two = np.zeros(64, np.float32)
    run(
        device,
        """
        simdgroup_float8x8 m; simdgroup_load(m, a, 8, ulong2(0, 0), false);
        b[2 * i] = m.thread_elements()[0]; b[2 * i + 1] = m.thread_elements()[1];
    """,
        x,
        two,
    )
    lane = np.arange(LANES)
    quad = lane // 4
    row, column = (quad & 4) + (lane // 2) % 4, (quad & 2) * 2 + (lane % 2) * 2
    assert np.array_equal(two[0::2], x[8 * row + column])
    assert np.array_equal(two[1::2], x[8 * row + column + 1])


@pytest.mark.parametrize("transpose", [False, True])
def test_loads_and_stores_of_matrices(device: HostDevice, transpose: bool) -> None:
    x = np.arange(20 * 24, dtype=np.float32).reshape(20, 24)
    out = np.zeros_like(x)
    run(
        device,
        f"""
        simdgroup_float8x8 m; simdgroup_load(m, a, 24, ulong2(4, 9), {str(transpose).lower()});
        simdgroup_store(m, b, 24, ulong2(8, 2), false);
    """,
        x,
        out,
    )
    block = x[9:17, 4:12]
    expected = np.zeros_like(x)
    expected[2:10, 8:16] = block.T if transpose else block
    assert np.array_equal(out, expected)


def test_products_of_matrices(device: HostDevice) -> None:
    rng = np.random.default_rng(3)
    left, right = (rng.integers(-9, 10, (8, 8)).astype(np.float32) for _ in range(2))
    sums = rng.integers(-9, 10, (8, 8)).astype(np.float32)
    out = np.zeros((8, 8), np.float32)
    run(
        device,
        """
        simdgroup_float8x8 x, z; simdgroup_half8x8 y;
        simdgroup_load(x, a); simdgroup_load(z, c);
        vec<float, 2> pair; simdgroup_float8x8 w; simdgroup_load(w, b);
        y.thread_elements() = vec<half, 2>(w.thread_elements());
        simdgroup_multiply_accumulate(z, x, y, z);
        simdgroup_store(z, d);
    """,
        left,
        right,
        sums,
        out,
    )
    assert np.array_equal(out, left @ right + sums)


def test_what_the_compiler_refuses_is_an_error(device: HostDevice) -> None:
    with pytest.raises(CompilerFailed, match=r"undeclared|not declared"):
        run(device, "a[i] = nothing;", np.zeros(LANES, np.float32))
