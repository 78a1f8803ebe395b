"""What shapes mean: ranks, layouts, sizes of 0, columns that repeat; in the caller's words."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


MISFITS: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    # rank 3 is (batch, rows, columns)
    ((4, 16, 64), (2, 16, 64), (2, 16, 64), {},
     r"^k: shape \(2, 16, 64\), expected batch 4 as q with shape \(4, 16, 64\): "
     r"rank 3 is \(batch, rows, columns\); for heads write x\[None\]$"),
    ((8, 5, 32), (8, 5, 32), (2, 5, 32), {}, r"^v: shape \(2, 5, 32\).*for heads write x\[None\]$"),
    # shapes as they were given, in every rank and layout
    ((5, 32), (7, 16), (7, 16), {},
     r"^k: shape \(7, 16\), expected 32 columns as q with shape \(5, 32\)$"),
    ((5, 32), (7, 32), (8, 32), {},
     r"^v: shape \(8, 32\), expected 7 rows as k with shape \(7, 32\)$"),
    ((2, 5, 4, 32), (2, 7, 2, 32), (2, 8, 2, 32), {"layout": "BNHD"},
     r"^v: shape \(2, 8, 2, 32\), expected 7 rows as k with shape \(2, 7, 2, 32\)$"),
    ((5, 4, 32), (7, 3, 32), (7, 3, 32), {"layout": "BNHD"},
     r"^q: shape \(5, 4, 32\) has 4 heads, expected a multiple of the 3 key/value heads of k with "
     r"shape \(7, 3, 32\)$"),
    # the other layout
    ((2, 16, 8, 64), (2, 20, 4, 64), (2, 20, 4, 64), {},
     r"^q: shape .* has 16 heads, .* the 20 key/value heads of k .*; "
     r"did you mean layout=\"BNHD\"\?$"),
    ((2, 8, 16, 64), (2, 4, 20, 64), (2, 4, 20, 64), {"layout": "BNHD"},
     r"did you mean layout=\"BHND\"\?$"),
    ((1, 9, 2, 64), (1, 12, 2, 64), (1, 12, 2, 64), {}, r"did you mean layout=\"BNHD\"\?$"),
    ((12, 4, 32), (20, 2, 32), (20, 2, 32), {"cu_seqlens_q": [0, 12], "cu_seqlens_k": [0, 20]},
     r"^q: shape \(12, 4, 32\) has 12 heads.*did you mean layout=\"BNHD\"\?$"),
    ((12, 4, 32), (12, 4, 32), (12, 4, 32), {"cu_seqlens_q": [0, 12], "cu_seqlens_k": [0, 12]},
     r"^cu_seqlens_q: ends with 12, expected at most 4, the rows of q with shape \(12, 4, 32\); "
     r"did you mean layout=\"BNHD\"\?$"),
    # neither
    ((2, 16, 8, 64), (2, 20, 3, 64), (2, 20, 3, 64), {}, r"with shape \(2, 20, 3, 64\)$"),
    ((2, 4, 5, 32), (2, 4, 7, 32), (2, 4, 7, 32), {"attn_mask": zeros(7, 5)},
     r"^attn_mask: shape \(7, 5\), expected one that broadcasts to \(2, 4, 5, 7\)$"),
    ((2, 5, 32), (2, 7, 32), (2, 7, 32), {"attn_mask": zeros(3, 5, 7)},
     r"^attn_mask: shape \(3, 5, 7\), expected one that broadcasts to \(2, 5, 7\)$"),
    ((5, 32), (7, 32), (7, 32), {"attn_mask": zeros(2, 7)},
     r"^attn_mask: shape \(2, 7\), expected one that broadcasts to \(5, 7\)$"),
    ((4, 16, 8), (4, 16, 8), (4, 16, 8),
     {"cu_seqlens_q": [0, 5, 16], "cu_seqlens_k": [0, 5, 16], "attn_mask": zeros(1, 1, 16, 16)},
     r"^attn_mask: shape \(1, 1, 16, 16\), expected one that broadcasts to \(2, 4, 11, 11\): "
     r"\(sequences, heads, longest sequence of q, longest sequence of k\)$"),
    ((2, 4, 5, 32), (2, 4, 5, 32), (2, 4, 5, 32), {"alibi_slopes": zeros(3, 4)},
     r"^alibi_slopes: shape \(3, 4\), expected \(4,\) or \(2, 4\): one number for each head of q"),
    ((2, 4, 5, 32), (2, 4, 5, 32), (2, 4, 5, 32), {"cu_seqlens_q": [0, 5], "cu_seqlens_k": [0, 5]},
     r"^q: shape \(2, 4, 5, 32\), expected batch 1 with cu_seqlens_q"),
]  # fmt: skip


@pytest.mark.parametrize(("q", "k", "v", "options", "message"), MISFITS)
def test_misfits_in_the_callers_words(
    q: Any, k: Any, v: Any, options: dict[str, Any], message: str
) -> None:
    for door in (umfa.attention, umfa.explain, umfa.workspace_size):
        with pytest.raises((umfa.InvalidDimensions, umfa.InvalidArgument), match=message):
            door(zeros(*q), zeros(*k), zeros(*v), **options)


def test_ranks_have_one_meaning(normal: Draw) -> None:
    q, k, v = normal(3, 4, 6, 8), normal(3, 2, 9, 8), normal(3, 2, 9, 5)
    full = umfa.attention(q, k, v)
    alone = umfa.attention(q[1][None], k[1][None], v[1][None])[0]
    np.testing.assert_allclose(alone, full[1], rtol=1e-5, atol=1e-6)
    one = umfa.attention(q[:, 0], k[:, 0], v[:, 0])  # batch, rows, columns
    np.testing.assert_allclose(one, full[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        umfa.attention(q[1, 0], k[1, 0], v[1, 0]), full[1, 0], rtol=1e-5, atol=1e-6
    )
    # packed: heads, rows, columns
    ends: Any = {"cu_seqlens_q": [0, 6], "cu_seqlens_k": [0, 9]}
    found = umfa.attention(q[1], k[1], v[1], **ends)
    np.testing.assert_allclose(found, full[1], rtol=1e-5, atol=1e-6)
    # BNHD: rows, heads, columns, packed or not
    none: dict[str, Any] = {}
    for options in (none, ends):
        swapped = umfa.attention(
            *(x[1].swapaxes(0, 1) for x in (q, k, v)), layout="BNHD", **options
        )
        np.testing.assert_allclose(swapped.swapaxes(0, 1), full[1], rtol=1e-5, atol=1e-6)


SIZES = {
    "batch": ((0, 2, 3, 8), (0, 2, 5, 8), (0, 2, 5, 4)),
    "heads": ((2, 0, 3, 8), (2, 0, 5, 8), (2, 0, 5, 4)),
    "rows of q": ((2, 2, 0, 8), (2, 2, 5, 8), (2, 2, 5, 4)),
    "rows of k": ((2, 2, 3, 8), (2, 2, 0, 8), (2, 2, 0, 4)),
    "columns": ((2, 2, 3, 0), (2, 2, 5, 0), (2, 2, 5, 4)),
    "all rows": ((2, 2, 0, 8), (2, 2, 0, 8), (2, 2, 0, 4)),
    "rows and columns": ((2, 2, 0, 0), (2, 2, 5, 0), (2, 2, 5, 4)),
    "rows of k and columns": ((2, 2, 3, 0), (2, 2, 0, 0), (2, 2, 0, 4)),
    "batch and columns": ((0, 2, 3, 0), (0, 2, 5, 0), (0, 2, 5, 4)),
    "rank 5": ((2, 0, 2, 3, 8), (2, 0, 2, 5, 8), (2, 0, 2, 5, 4)),
    "outer of rank 5": ((0, 3, 2, 3, 8), (0, 3, 2, 5, 8), (0, 3, 2, 5, 4)),
    "rank 3": ((0, 3, 8), (0, 5, 8), (0, 5, 4)),
    "rows of rank 3": ((2, 0, 8), (2, 5, 8), (2, 5, 4)),
    "rank 2": ((0, 8), (5, 8), (5, 4)),
    "keys of rank 2": ((3, 8), (0, 8), (0, 4)),
    "columns of rank 2": ((3, 0), (5, 0), (5, 4)),
    "columns of rank 5": ((2, 2, 2, 3, 0), (2, 2, 2, 5, 0), (2, 2, 2, 5, 4)),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float"])
def test_sizes_of_zero_as_in_torch(torch: Any, normal: Draw, name: str, mask: str) -> None:
    """The shape is torch's, and so are the values but where a row sees nothing: 0."""
    shapes = SIZES[name]
    q, k, v = (normal(*shape) for shape in shapes)
    scores = (shapes[0][-2], shapes[1][-2])
    options: dict[str, Any] = {"is_causal": True} if mask == "causal" else {}
    if mask in ("bool", "float"):
        bias = normal(*scores)
        options["attn_mask"] = bias > -1 if mask == "bool" else bias
    shape = torch.nn.functional.scaled_dot_product_attention(
        *(torch.zeros(s) for s in shapes)
    ).shape
    for sdpa in (umfa.sdpa, umfa.SDPA()):
        found = sdpa(q, k, v, **options)
        assert found.shape == tuple(shape)
    if not found.size:
        return
    # Without columns all scores are 0, which leaves the mask.
    weights = np.zeros((*q.shape[:-1], k.shape[-2]), np.float32)
    if mask == "float":
        weights += bias
    if mask in ("bool", "causal"):
        seen = bias > -1 if mask == "bool" else np.tri(*scores, dtype=bool)
        weights = np.where(seen, weights, -np.inf)
    if k.shape[-2]:
        most = np.maximum(weights.max(-1, keepdims=True), -1e30)
        powers = np.exp(weights - most)
        expected = powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30) @ v
    else:
        expected = np.zeros_like(found)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SIZES if len(SIZES[name][0]) < 5])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sizes_of_zero_at_the_other_doors(
    context: umfa.MFAContext, normal: Draw, name: str, dtype: str
) -> None:
    q, k, v = (normal(*shape).astype(dtype) for shape in SIZES[name])
    expected = umfa.sdpa(q, k, v)
    out, lse = umfa.attention(q, k, v, return_logsumexp=True)
    np.testing.assert_array_equal(out, expected)
    assert lse.shape == q.shape[:-1]
    if not k.shape[-2]:
        assert (lse == -np.inf).all()
    elif not q.shape[-1]:
        np.testing.assert_allclose(lse, np.log(k.shape[-2]), rtol=1e-6)
    np.testing.assert_array_equal(umfa.flash_attention_forward(context, q, k, v), expected)
    given = np.ones_like(expected)
    assert umfa.attention(q, k, v, out=given) is given
    np.testing.assert_array_equal(given, expected)
    for backward in (False, True):
        assert umfa.workspace_size(q, k, v, backward=backward) >= 0
        assert ": " in umfa.explain(q, k, v, backward=backward)
    swapped = [np.swapaxes(x, -3, -2) if x.ndim > 2 else x for x in (q, k, v)]
    if q.ndim == 4:
        found = umfa.attention(swapped[0], swapped[1], swapped[2], layout="BNHD")
        np.testing.assert_array_equal(found.swapaxes(1, 2), expected)
    quantized: Any = {"precision": "int8", "granularity": "row"}
    assert umfa.attention(q, k, v, **quantized).shape == expected.shape
    stored = umfa.quantized_attention(q, umfa.quantize(k), umfa.quantize(v, "int4", "row"))
    assert stored.shape == expected.shape

    grad = normal(*expected.shape).astype(dtype)
    mask = normal(q.shape[-2], k.shape[-2])
    heads = q.shape[1] if q.ndim == 4 else 1
    options: Any = {"attn_mask": mask, "sinks": normal(heads)}
    out, lse = umfa.attention(q, k, v, return_logsumexp=True, **options)
    gradients = umfa.flash_attention_backward(
        context, grad, q, k, v, out, lse, grad_mask=True, grad_sinks=True, **options
    )
    assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape, mask.shape, (heads,)]
    for gradient in gradients[:3]:
        assert gradient.dtype == np.float32
        assert np.isfinite(gradient).all()
    if not q.shape[-2] or 0 in q.shape[:-2]:
        for gradient in gradients:
            assert not gradient.any()
    if name == "columns":
        assert gradients[2].any()
        assert gradients[3].any()


def test_gradients_without_columns(context: umfa.MFAContext, normal: Draw) -> None:
    q, k, v, grad = zeros(1, 2, 3, 0), zeros(1, 2, 5, 0), normal(1, 2, 5, 4), normal(1, 2, 3, 4)
    out, lse = umfa.attention(q, k, v, return_logsumexp=True)
    dv = umfa.flash_attention_backward(context, grad, q, k, v, out, lse)[2]
    np.testing.assert_allclose(dv, np.repeat(grad.mean(2, keepdims=True) * 3 / 5, 5, 2), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("which", [c for n in (1, 2, 3) for c in itertools.combinations("qkv", n)])
def test_columns_that_repeat(
    context: umfa.MFAContext, normal: Draw, which: tuple[str, ...], dtype: Any
) -> None:
    shapes = {"q": (2, 4, 6, 16), "k": (2, 2, 9, 16), "v": (2, 2, 9, 16)}
    views: dict[str, Any] = {}
    for name, shape in shapes.items():
        array = normal(*shape).astype(dtype)
        if name in which:
            array = np.broadcast_to(array[:, :1, :, :1], shape)
            assert array.strides[1] == array.strides[3] == 0
        views[name] = array
    q, k, v = (views[name] for name in "qkv")
    copies = [np.ascontiguousarray(view) for view in (q, k, v)]
    expected, lse = umfa.attention(copies[0], copies[1], copies[2], return_logsumexp=True)
    np.testing.assert_array_equal(umfa.attention(q, k, v), expected)
    grad = normal(*expected.shape).astype(dtype)
    found = umfa.flash_attention_backward(context, grad, q, k, v, expected, lse)
    q, k, v = copies
    same = umfa.flash_attention_backward(context, grad, q, k, v, expected, lse)
    for a, b in zip(found, same):
        np.testing.assert_array_equal(a, b)
    # what else repeats goes on repeating: one row of many heads
    _, sizes, strides = umfa._native._operand(np.broadcast_to(np.float32(3), (64, 64, 1000, 8)))
    assert sizes == [64, 64, 1000, 8]
    assert strides == [0, 0, 0, 1]


def test_columns_that_repeat_in_other_libraries(torch: Any, normal: Draw) -> None:
    k = torch.randn(1, 2, 9, 1).expand(1, 2, 9, 16)
    q = torch.randn(1, 2, 6, 16)
    expected = umfa.attention(q, k.contiguous(), k.contiguous())
    torch.testing.assert_close(umfa.attention(q, k, k), expected, rtol=0, atol=0)
    data = np.broadcast_to(np.int8(3), (9, 16))
    stored = umfa.QuantizedTensor(data, 0.5)
    x = normal(6, 16)
    np.testing.assert_allclose(umfa.attention(x, stored, stored), np.full((6, 16), 1.5), rtol=1e-6)
    assert plain.rms(stored.dequantize() - 1.5) == 0
