"""How many of its stored keys each sequence has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]

LENGTHS = [9, 0, 4]


@pytest.mark.parametrize("form", [list, tuple, np.int32, np.int64])
@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("stored", [None, "int8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "alignment": "bottom_right"},
        {"causal": True, "alignment": "top_left"},
        {"window": (2, 0), "alignment": "bottom_right", "softcap": 5.0},
        {"alibi_slopes": [0.1, 0.2, 0.3, 0.4], "alignment": "bottom_right", "sinks": [0.0] * 4},
    ],
)
def test_each_sequence_alone(
    context: umfa.MFAContext, normal: Draw, form: Any, layout: Any, stored: Any, options: Any
) -> None:
    q, k, v = normal(3, 4, 5, 16), normal(3, 2, 12, 16), normal(3, 2, 12, 8)
    grad, grad_lse = normal(3, 4, 5, 8), normal(3, 4, 5)
    for batch, length in enumerate(LENGTHS):
        k[batch, :, length:] = np.float32(1e30) if stored else np.nan
        v[batch, :, length:] = np.float32(1e30) if stored else np.nan
    seqlens = form(LENGTHS) if form in (list, tuple) else np.array(LENGTHS, form)
    keys: Any = k
    values: Any = v
    turn: Any = (lambda x: x.swapaxes(1, 2)) if layout == "BNHD" else (lambda x: x)
    if stored:
        keys, values = (
            umfa.quantize(turn(x), stored, "row", layout=layout, symmetric=False) for x in (k, v)
        )
        k, v = turn(keys.dequantize()), turn(values.dequantize())
    else:
        keys, values = turn(k), turn(v)
    given: Any = {"layout": layout, **options}
    out, lse = umfa.attention(
        turn(q), keys, values, seqlens_k=seqlens, return_logsumexp=True, **given
    )
    gradients = umfa.flash_attention_backward(
        context, turn(grad), turn(q), keys, values, out, lse, grad_lse=grad_lse,
        seqlens_k=seqlens, **given,
    )  # fmt: skip
    found = [turn(x) for x in (out, *gradients)]
    for batch, length in enumerate(LENGTHS):
        one = slice(batch, batch + 1)
        piece = (q[one], k[one, :, :length], v[one, :, :length])
        expected, rows = umfa.attention(*piece, return_logsumexp=True, **options)
        np.testing.assert_allclose(found[0][one], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(lse[one], rows, rtol=1e-4, atol=1e-4)
        alone = umfa.flash_attention_backward(
            context, grad[one], *piece, expected, rows, grad_lse=grad_lse[one], **options
        )
        np.testing.assert_allclose(found[1][one], alone[0], rtol=1e-3, atol=1e-3)
        for whole, part in zip(found[2:], alone[1:]):
            np.testing.assert_allclose(whole[one, :, :length], part, rtol=1e-3, atol=1e-3)
            assert not whole[one, :, length:].any()


def test_at_the_doors_of_torch(normal: Draw) -> None:
    q, k = normal(3, 2, 5, 8), normal(3, 2, 12, 8)
    expected = umfa.attention(q, k, k, seqlens_k=LENGTHS)
    for found in (
        umfa.sdpa(q, k, k, seqlens_k=LENGTHS),
        umfa.SDPA(seqlens_k=LENGTHS)(q, k, k),
    ):
        np.testing.assert_array_equal(found, expected)


def test_the_alignment_is_asked_for_by_each_sequence(normal: Draw) -> None:
    q, k = normal(2, 2, 5, 8), normal(2, 2, 9, 8)
    with pytest.raises(umfa.InvalidArgument, match="5 rows of q to 7 of k in sequence 1"):
        umfa.attention(q, k, k, causal=True, seqlens_k=[5, 7])
    same = umfa.attention(q, k, k, causal=True, seqlens_k=[5, 5])
    np.testing.assert_allclose(
        same, umfa.attention(q, k[:, :, :5], k[:, :, :5], causal=True), rtol=1e-5, atol=1e-6
    )


def test_packed_sequences_with_spare_rows(context: umfa.MFAContext, normal: Draw) -> None:
    q, k = normal(2, 12, 8), normal(2, 20, 8)
    ends: Any = {"cu_seqlens_q": [0, 4, 9], "cu_seqlens_k": [0, 6, 15], "seqlens_k": [3, 9]}
    out, lse = umfa.attention(q, k, k, return_logsumexp=True, **ends)
    for rows, keys in ((slice(0, 4), slice(0, 3)), (slice(4, 9), slice(6, 15))):
        expected = umfa.attention(q[None, :, rows], k[None, :, keys], k[None, :, keys])[0]
        np.testing.assert_allclose(out[:, rows], expected, rtol=1e-5, atol=1e-6)
    assert not out[:, 9:].any()
    assert (lse[:, 9:] == -np.inf).all()
    grad = normal(*out.shape)
    dq, dk, dv = umfa.flash_attention_backward(context, grad, q, k, k, out, lse, **ends)
    assert not dq[:, 9:].any()
    for gradient in (dk, dv):
        assert not gradient[:, 3:6].any()
        assert not gradient[:, 15:].any()
        assert gradient[:, 6:15].any()


def test_bad_lengths(normal: Draw) -> None:
    q, k = normal(2, 2, 5, 8), normal(2, 2, 9, 8)
    attend: Any = umfa.attention
    for lengths, message in (
        ([9], "seqlens_k: 1 entries, expected 2, one for each batch"),
        ([9, 10], "seqlens_k: 10 for sequence 1, expected 0 to 9, its rows of k"),
        ([-1, 9], "seqlens_k: -1 for sequence 0, expected 0 to 9"),
        ([1 << 40, 9], "seqlens_k: .*does not fit int32"),
        (np.zeros((2, 1), np.int32), r"seqlens_k: shape \(2, 1\), expected how many keys"),
        ([1.5, 2.0], "seqlens_k: list, expected"),
        (np.zeros(2, np.float32), "seqlens_k: dtype float32, expected int32 or int64"),
    ):
        with pytest.raises(umfa.MFAError, match=message):
            attend(q, k, k, seqlens_k=lengths)
    packed: Any = {"cu_seqlens_q": [0, 2, 5], "cu_seqlens_k": [0, 2, 9]}
    with pytest.raises(umfa.MFAError, match="seqlens_k: 3 for sequence 0, expected 0 to 2"):
        attend(q[0], k[0], k[0], seqlens_k=[3, 3], **packed)
    with pytest.raises(umfa.MFAError, match="3 entries, expected 2, one for each packed sequence"):
        attend(q[0], k[0], k[0], seqlens_k=[1, 1, 1], **packed)


def test_head_dimensions_to_1024(context: umfa.MFAContext, normal: Draw) -> None:
    q, k, v = normal(1, 2, 5, 576), normal(1, 1, 9, 576), normal(1, 1, 9, 1024)
    out, lse = umfa.attention(q, k, v, return_logsumexp=True)
    scores = np.einsum("bhnd,bhmd->bhnm", q, np.repeat(k, 2, 1)).astype(float) / 24
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(out, weights @ np.repeat(v, 2, 1), rtol=1e-3, atol=1e-4)
    gradients = umfa.flash_attention_backward(context, normal(*out.shape), q, k, v, out, lse)
    assert all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_are_of_the_stored_keys(normal: Draw, kind: str) -> None:
    q, k = normal(2, 2, 5, 8), normal(2, 2, 9, 8)
    mask = normal(5, 9) if kind == "float" else normal(5, 9) > 0
    found = umfa.attention(q, k, k, attn_mask=mask, seqlens_k=[6, 4])
    for batch, length in enumerate((6, 4)):
        keys = k[batch : batch + 1, :, :length]
        expected = umfa.attention(q[batch : batch + 1], keys, keys, attn_mask=mask[:, :length])
        np.testing.assert_allclose(found[batch : batch + 1], expected, rtol=1e-5, atol=1e-6)
