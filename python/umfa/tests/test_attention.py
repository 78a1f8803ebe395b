"""The options of attention, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]


def check(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("alignment", ["top_left", "bottom_right"])
def test_grouped_heads_and_causal(normal: Draw, heads: int, kv_heads: int, alignment: Any) -> None:
    q, k, v = normal(2, heads, 9, 24), normal(2, kv_heads, 33, 24), normal(2, kv_heads, 33, 40)
    found = umfa.attention(q, k, v, causal=True, alignment=alignment, return_logsumexp=True)
    out, logsumexp = plain.attention(q, k, v, causal=True, alignment=alignment)
    assert found[0].shape == (2, heads, 9, 40)
    assert found[1].shape == (2, heads, 9)
    assert found[1].dtype == np.float32
    check(found[0], out)
    check(found[1], logsumexp)


def test_every_option_together(normal: Draw) -> None:
    q, k, v = normal(2, 4, 17, 16), normal(2, 2, 29, 16), normal(2, 2, 29, 16)
    mask = normal(2, 1, 17, 29)
    slopes, sinks = np.array([0.5, 0.25, 0.1, 0.05], np.float32), normal(4)
    found = umfa.attention(
        q,
        k,
        v,
        causal=True,
        alignment="bottom_right",
        softmax_scale=0.3,
        attn_mask=mask,
        window=(20, None),
        softcap=5.0,
        alibi_slopes=slopes,
        sinks=sinks,
        return_logsumexp=True,
    )
    out, logsumexp = plain.attention(
        q,
        k,
        v,
        causal=True,
        alignment="bottom_right",
        scale=0.3,
        mask=mask,
        window=(20, -1),
        softcap=5.0,
        slopes=slopes,
        sinks=sinks,
    )
    check(found[0], out)
    check(found[1], logsumexp)


@pytest.mark.parametrize("shape", [(23,), (11, 23), (3, 1, 23), (3, 11, 23), (2, 1, 11, 23)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_broadcast_from_the_right(normal: Draw, shape: tuple[int, ...], kind: str) -> None:
    q, k, v = normal(2, 3, 11, 8), normal(2, 3, 23, 8), normal(2, 3, 23, 8)
    mask: Any = normal(*shape)
    if kind == "bool":
        mask = mask > 0
    check(umfa.attention(q, k, v, attn_mask=mask), plain.attention(q, k, v, mask=mask)[0])


def test_window_of_one_int_is_both_sides(normal: Draw) -> None:
    q, k, v = normal(1, 2, 31, 8), normal(1, 2, 31, 8), normal(1, 2, 31, 8)
    check(umfa.attention(q, k, v, window=4), plain.attention(q, k, v, window=(4, 4))[0])
    check(umfa.attention(q, k, v, window=(-1, 0)), plain.attention(q, k, v, window=(-1, 0))[0])


def test_rows_without_keys_give_zero(normal: Draw) -> None:
    q, k, v = normal(1, 1, 4, 8), normal(1, 1, 6, 8), normal(1, 1, 6, 8)
    mask = np.array([True, False, True, False])[:, None].repeat(6, 1)
    out, logsumexp = umfa.attention(q, k, v, attn_mask=mask, return_logsumexp=True)
    assert not out[0, 0, ~mask[:, 0]].any()
    assert np.isneginf(logsumexp[0, 0, ~mask[:, 0]]).all()
    check(out, plain.attention(q, k, v, mask=mask)[0])


def test_empty_operands(normal: Draw) -> None:
    none = umfa.attention(normal(1, 2, 0, 8), normal(1, 2, 5, 8), normal(1, 2, 5, 8))
    assert none.shape == (1, 2, 0, 8)
    zero = umfa.attention(normal(1, 2, 3, 8), normal(1, 2, 0, 8), normal(1, 2, 0, 8))
    assert zero.shape == (1, 2, 3, 8)
    assert not zero.any()


def test_ranks_of_layout_bhnd(normal: Draw) -> None:
    q, k, v = normal(3, 7, 8), normal(3, 9, 8), normal(3, 9, 5)
    expected, logsumexp = plain.attention(*(x[:, None] for x in (q, k, v)))
    found = umfa.attention(q, k, v, return_logsumexp=True)
    check(found[0], expected[:, 0])
    check(found[1], logsumexp[:, 0])
    single = umfa.attention(q[1], k[1], v[1], return_logsumexp=True)
    check(single[0], expected[1, 0])
    check(single[1], logsumexp[1, 0])
    mask = normal(3, 7, 9)
    masked = plain.attention(*(x[:, None] for x in (q, k, v)), mask=mask[:, None])[0]
    check(umfa.attention(q, k, v, attn_mask=mask), masked[:, 0])


def test_layout_bnhd(normal: Draw) -> None:
    q, k, v = normal(2, 7, 4, 8), normal(2, 9, 2, 8), normal(2, 9, 2, 5)
    expected, logsumexp = plain.attention(*(x.swapaxes(1, 2) for x in (q, k, v)))
    found = umfa.attention(q, k, v, layout="BNHD", return_logsumexp=True)
    check(found[0], expected.swapaxes(1, 2))
    check(found[1], logsumexp)
    unbatched = umfa.attention(q[0], k[0], v[0], layout="BNHD", return_logsumexp=True)
    check(unbatched[0], expected[0].swapaxes(0, 1))
    check(unbatched[1], logsumexp[0])


@pytest.mark.parametrize("form", ["int32", "int64", "list", "strided"])
def test_packed_sequences(normal: Draw, form: str) -> None:
    ends_q, ends_k = [0, 5, 5, 12], [0, 3, 7, 20]
    q, k, v = normal(12, 4, 8), normal(20, 2, 8), normal(20, 2, 8)
    make: dict[str, Callable[[list[int]], Any]] = {
        "int32": lambda ends: np.array(ends, np.int32),
        "int64": lambda ends: np.array(ends),
        "list": lambda ends: ends,
        "strided": lambda ends: np.repeat(np.array(ends, np.int32), 2)[::2],
    }
    lengths: Any = {"cu_seqlens_q": make[form](ends_q), "cu_seqlens_k": make[form](ends_k)}
    lengths |= {"causal": True, "alignment": "top_left"}
    out, logsumexp = umfa.attention(q, k, v, layout="BNHD", return_logsumexp=True, **lengths)
    assert logsumexp.shape == (4, 12)
    for i in range(3):
        at, to = slice(ends_q[i], ends_q[i + 1]), slice(ends_k[i], ends_k[i + 1])
        piece = (x[None].swapaxes(1, 2) for x in (q[at], k[to], v[to]))
        expected, rows = plain.attention(*piece, causal=True)
        check(out[at], expected[0].swapaxes(0, 1))
        check(logsumexp[:, at], rows[0])
    heads_first = umfa.attention(*(x.swapaxes(0, 1) for x in (q, k, v)), **lengths)
    np.testing.assert_array_equal(heads_first.swapaxes(0, 1), out)


def test_precision_quantizes_first(normal: Draw) -> None:
    q, k, v = normal(2, 4, 33, 32), normal(2, 2, 65, 32), normal(2, 2, 65, 32)
    options: Any = {"granularity": "row", "symmetric": False, "rotate": True}
    k8 = umfa.quantize(k, "int8", smooth=True, **options)
    v4 = umfa.quantize(v, "int4", **options)
    expected = umfa.attention(q, k8, v4)
    precision: Any = {"k": "int8", "v": "int4"}
    found = umfa.attention(q, k, v, precision=precision, smooth=True, **options)
    np.testing.assert_array_equal(found, expected)
    reference = plain.attention(q, k8.dequantize(), v4.dequantize())[0]
    assert plain.rms(found - reference) <= 2e-4 * plain.rms(reference)


def test_each_operand_has_its_own_settings(normal: Draw) -> None:
    q, k, v = normal(1, 2, 16, 64), normal(1, 2, 70, 64), normal(1, 2, 70, 64)
    settings: Any = {
        "precision": {"q": "int8", "k": "int4", "v": "int8"},
        "granularity": {"q": "row", "k": "channel", "v": "row"},
        "block_rows": {"k": 32},
        "group": {"v": 32},
        "scale_dtype": {"k": "float16"},
    }
    expected = umfa.quantized_attention(
        umfa.quantize(q, "int8", "row"),
        umfa.quantize(k, "int4", "channel", block_rows=32, scale_dtype="float16"),
        umfa.quantize(v, "int8", "row", group=32),
    )
    np.testing.assert_array_equal(umfa.attention(q, k, v, **settings), expected)


def test_the_fast_mode_is_close(normal: Draw) -> None:
    q, k, v = normal(1, 2, 64, 64), normal(1, 2, 256, 64), normal(1, 2, 256, 64)
    exact = umfa.attention(q, k, v, precision="int8", granularity="row")
    fast = umfa.attention(q, k, v, precision="int8", granularity="row", compute="fast")
    assert plain.rms(fast - exact) <= 0.03 * plain.rms(exact)


def test_context_first(normal: Draw, context: umfa.MFAContext) -> None:
    q, k, v = normal(1, 2, 8, 16), normal(1, 2, 8, 16), normal(1, 2, 8, 16)
    expected = umfa.attention(q, k, v)
    np.testing.assert_array_equal(umfa.flash_attention_forward(context, q, k, v), expected)
    np.testing.assert_array_equal(umfa.attention(q, k, v, context), expected)


def test_out_is_written_and_returned(normal: Draw) -> None:
    q, k, v = normal(1, 2, 8, 16), normal(1, 2, 8, 16), normal(1, 2, 8, 16)
    expected = umfa.attention(q, k, v)
    wide = np.zeros((1, 2, 8, 32), np.float32)
    out = wide[..., ::2]
    assert umfa.attention(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert not wide[..., 1::2].any()
    half = np.empty((1, 2, 8, 16), np.float16)
    np.testing.assert_array_equal(umfa.attention(q, k, v, out=half), expected.astype(np.float16))


def test_plans(normal: Draw) -> None:
    q, k, v = normal(1, 4, 100, 64), normal(1, 2, 300, 64), normal(1, 2, 300, 64)
    plan = umfa.explain(q, k, v, causal=True, alignment="bottom_right", precision={"k": "int8"})
    lines = dict(line.split(": ", 1) for line in plan.splitlines())
    assert lines["operation"] == "forward"
    assert "INT8" in lines["key"]
    assert "FP32" in lines["value"]
    bytes_ = umfa.workspace_size(q, k, v)
    assert 0 <= bytes_ < 64 << 20
    quantizing = umfa.workspace_size(q, k, v, precision={"k": "int8"})
    assert quantizing >= k.size


def test_a_plan_computes_nothing() -> None:
    # 64 GiB of addresses, none of which is read
    x = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (1, 1, 1 << 28, 64), (0, 0, 0, 4))
    assert "forward" in umfa.explain(x[:, :, :1], x, x)
