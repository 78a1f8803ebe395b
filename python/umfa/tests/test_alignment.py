"""Where the diagonal lies: said where lengths differ, elsewhere as PyTorch or FlashAttention do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]

DIAGONALS: list[dict[str, Any]] = [
    {"causal": True},
    {"window": (2, 0)},
    {"window": (None, 1)},
    {"window": 3},
    {"alibi_slopes": [0.1, 0.2]},
]


def expected(q: Any, k: Any, options: dict[str, Any], shift: int) -> Any:
    at = np.arange(q.shape[-2])[:, None] + shift
    keys = np.arange(k.shape[-2])
    bias = np.zeros((1, 2, q.shape[-2], k.shape[-2]), np.float32)
    if "alibi_slopes" in options:
        bias -= np.array(options["alibi_slopes"], np.float32)[:, None, None] * np.abs(at - keys)
    window = options.get("window", (None, 0) if options.get("causal") else (None, None))
    left, right = window if isinstance(window, tuple) else (window, window)
    if left is not None:
        bias[..., keys < at - left] = -np.inf
    if right is not None:
        bias[..., keys > at + right] = -np.inf
    return plain.attention(q, k, k, mask=bias)[0]


@pytest.mark.parametrize("options", DIAGONALS)
@pytest.mark.parametrize(("rows", "keys"), [(1, 9), (5, 9), (9, 5)])
def test_umfas_own_calls_ask(
    normal: Draw, context: umfa.MFAContext, options: dict[str, Any], rows: int, keys: int
) -> None:
    q, k = normal(1, 2, rows, 8), normal(1, 2, keys, 8)
    k8 = umfa.quantize(k, "int8", "row")
    doors: list[Callable[..., Any]] = [
        umfa.attention,
        umfa.explain,
        umfa.workspace_size,
        lambda q, _, v, **rest: umfa.quantized_attention(q, k8, v, **rest),
        lambda q, k, v, **rest: umfa.attention(*(x[:, 0] for x in (q, k, v)), **rest),
    ]
    for number, door in enumerate(doors):
        given = dict(options)
        if number == 4 and "alibi_slopes" in given:
            given["alibi_slopes"] = given["alibi_slopes"][:1]
        with pytest.raises(umfa.InvalidArgument) as caught:
            door(q, k, k, **given)
        text = str(caught.value)
        assert f"{rows} rows of q to {keys} of k" in text
        assert all(word in text for word in ("bottom_right", "top_left", "PyTorch", "Flash"))
    right = {"top_left": 0, "bottom_right": keys - rows}
    for alignment, shift in right.items():
        found = umfa.attention(q, k, k, alignment=alignment, **options)  # type: ignore[call-overload]
        np.testing.assert_allclose(found, expected(q, k, options, shift), rtol=1e-5, atol=1e-5)
    flash = umfa.flash_attention_forward(context, q, k, k, **options)
    np.testing.assert_allclose(flash, expected(q, k, options, keys - rows), rtol=1e-5, atol=1e-5)
    for sdpa in (umfa.sdpa, umfa.SDPA()):
        if sdpa is umfa.sdpa:
            found = sdpa(q, k, k, **options)
            np.testing.assert_allclose(found, expected(q, k, options, 0), rtol=1e-5, atol=1e-5)
    found = umfa.SDPA(**options)(q, k, k)
    np.testing.assert_allclose(found, expected(q, k, options, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", DIAGONALS)
def test_equal_lengths_ask_nothing(normal: Draw, options: dict[str, Any]) -> None:
    x = normal(1, 2, 7, 8)
    found = umfa.attention(x, x, x, **options)
    np.testing.assert_allclose(found, expected(x, x, options, 0), rtol=1e-5, atol=1e-5)
    # and so do calls without a diagonal
    y = normal(1, 2, 9, 8)
    for none in ({}, {"causal": False}, {"window": (None, -1)}, {"window": -1}):
        np.testing.assert_array_equal(umfa.attention(x, y, y, **none), umfa.attention(x, y, y))


def test_packed_sequences_ask_where_one_differs(normal: Draw) -> None:
    q, k = normal(2, 9, 8), normal(2, 12, 8)
    same: Any = {"cu_seqlens_q": [0, 4, 9], "cu_seqlens_k": [0, 4, 9]}
    umfa.attention(q, k[:, :9], k[:, :9], causal=True, **same)
    ends: Any = {"cu_seqlens_q": [0, 4, 4, 9], "cu_seqlens_k": [0, 4, 6, 12]}
    with pytest.raises(umfa.InvalidArgument, match="5 rows of q to 6 of k in sequence 2"):
        umfa.attention(q, k, k, causal=True, **ends)
    found = umfa.attention(q, k, k, causal=True, alignment="bottom_right", **ends)
    last = umfa.attention(
        q[None, :, 4:], *(k[None, :, 6:],) * 2, causal=True, alignment="bottom_right"
    )
    np.testing.assert_allclose(found[:, 4:], last[0], rtol=1e-5, atol=1e-6)


def test_gradients_of_flash_attention_are_of_its_diagonal(
    normal: Draw, context: umfa.MFAContext
) -> None:
    q, k, grad = normal(1, 2, 3, 8), normal(1, 2, 7, 8), normal(1, 2, 3, 8)
    out, lse = umfa.flash_attention_forward(context, q, k, k, causal=True, return_logsumexp=True)
    found = umfa.flash_attention_backward(context, grad, q, k, k, out, lse, causal=True)
    said: Any = {"causal": True, "alignment": "bottom_right"}
    expected = umfa.flash_attention_backward(context, grad, q, k, k, out, lse, **said)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)
    assert found[1][:, :, 4].any()  # a key that top-left would hide from all rows
