"""Merging attention over parts of the keys, and its gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]


def parts_of(
    q: Any, k: Any, v: Any, ends: list[int], **options: Any
) -> tuple[list[Any], list[Any]]:
    axis = -3 if options.get("layout") == "BNHD" and k.ndim > 2 else -2
    pieces = []
    for first, last in itertools.pairwise(ends):
        at = [slice(None)] * k.ndim
        at[axis] = slice(first, last)
        pieces.append(
            umfa.attention(q, k[tuple(at)], v[tuple(at)], return_logsumexp=True, **options)
        )
    return [out for out, _ in pieces], [lse for _, lse in pieces]


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_parts_make_the_whole(normal: Draw, rank: int, layout: Any) -> None:
    shapes = {
        2: ((7, 16), (20, 16)),
        3: ((4, 7, 16), (4, 20, 16)),
        4: ((2, 4, 7, 16), (2, 4, 20, 16)),
    }
    q, k = (normal(*shape) for shape in shapes[rank])
    if layout == "BNHD" and rank > 2:
        q, k = q.swapaxes(-3, -2), k.swapaxes(-3, -2)
    whole, lse = umfa.attention(q, k, k, layout=layout, return_logsumexp=True)
    for ends in ([0, 20], [0, 5, 5, 20], [0, 1, 2, 3, 20]):
        outs, statistics = parts_of(q, k, k, ends, layout=layout)
        merged, total = umfa.merge(outs, statistics, layout=layout)
        np.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(total, lse, rtol=1e-5, atol=1e-6)
        assert merged.shape == whole.shape
        assert total.shape == lse.shape
        assert total.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "torch"])
def test_dtypes_and_libraries(normal: Draw, dtype: str, request: Any) -> None:
    q, k = normal(2, 4, 7, 16), normal(2, 4, 20, 16)
    given: list[Any] = [q, k]
    if dtype == "torch":
        torch = request.getfixturevalue("torch")
        given = [torch.from_numpy(x) for x in given]
    else:
        kind = request.getfixturevalue("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
        given = [x.astype(kind) for x in given]
    outs, statistics = parts_of(given[0], given[1], given[1], [0, 9, 20])
    merged, total = umfa.merge(tuple(outs), iter(statistics))
    assert type(merged) is type(given[0])
    assert merged.dtype == given[0].dtype
    exact, lse = umfa.attention(q, k, k, return_logsumexp=True)
    np.testing.assert_allclose(np.asarray(merged, np.float32), exact, atol=0.03)
    np.testing.assert_allclose(np.asarray(total), lse, atol=0.03)


def test_float64_is_merged_in_float64(normal: Draw) -> None:
    outs = [normal(2, 3, 4, 5).astype(float) for _ in range(3)]
    statistics = [normal(2, 3, 4).astype(float) for _ in range(3)]
    merged, total = umfa.merge(outs, statistics)
    assert merged.dtype == total.dtype == np.float64
    expected = formula(outs, statistics)
    np.testing.assert_allclose(merged, expected[0], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(total, expected[1], rtol=1e-14, atol=1e-14)
    grads, rows = umfa.merge_backward(outs[0], outs, statistics, statistics[0])
    assert {x.dtype for x in (*grads, *rows)} == {np.dtype(float)}
    weights = np.exp(statistics[1] - total)
    np.testing.assert_allclose(grads[1], weights[..., None] * outs[0], rtol=1e-13)
    with pytest.raises(umfa.InvalidType, match=r"outs\[1\]: dtype float32, expected float64"):
        umfa.merge([outs[0], normal(2, 3, 4, 5)], statistics[:2])
    with pytest.raises(umfa.InvalidType, match=r"logsumexps\[0\]: dtype float32, expected float64"):
        umfa.merge(outs[:1], [normal(2, 3, 4)])


def test_out_may_be_a_part(normal: Draw) -> None:
    q, k = normal(1, 2, 7, 16), normal(1, 2, 20, 16)
    outs, statistics = parts_of(q, k, k, [0, 9, 20])
    expected, _ = umfa.merge(outs, statistics)
    merged, _ = umfa.merge(outs, statistics, out=outs[0])
    assert merged is outs[0]
    np.testing.assert_array_equal(merged, expected)


def test_parts_that_see_nothing_add_nothing(normal: Draw) -> None:
    q, k = normal(1, 2, 7, 16), normal(1, 2, 9, 16)
    out, lse = umfa.attention(q, k, k, return_logsumexp=True)
    nothing = np.full_like(lse, -np.inf)
    merged, total = umfa.merge([out, np.full_like(out, np.nan)], [lse, nothing])
    np.testing.assert_allclose(merged, out, rtol=1e-6)
    np.testing.assert_allclose(total, lse, rtol=1e-6)
    merged, total = umfa.merge([np.full_like(out, np.nan)], [nothing])
    assert not merged.any()
    assert (total == -np.inf).all()


def formula(outs: Any, statistics: Any) -> tuple[Any, Any]:
    total = np.logaddexp.reduce(statistics)
    merged = sum(np.exp(lse - total)[..., None] * out for out, lse in zip(outs, statistics))
    return merged, total


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
def test_gradients_are_finite_differences(normal: Draw, layout: Any) -> None:
    swap: Any = (lambda x: x.swapaxes(-3, -2)) if layout == "BNHD" else (lambda x: x)
    outs = [normal(2, 3, 4, 5).astype(float) for _ in range(3)]
    statistics = [normal(2, 3, 4).astype(float) for _ in range(3)]
    grad_out, grad_lse = normal(2, 3, 4, 5), normal(2, 3, 4)

    def loss() -> float:
        merged, total = formula(outs, statistics)
        return float((merged * grad_out).sum() + (total * grad_lse).sum())

    single = [x.astype(np.float32) for x in outs], [x.astype(np.float32) for x in statistics]
    found = umfa.merge_backward(
        swap(grad_out), [swap(x) for x in single[0]], single[1], grad_lse, layout=layout
    )
    for arrays, gradients in zip((outs, statistics), found):
        assert len(gradients) == 3
        for array, gradient in zip(arrays, gradients):
            gradient = swap(gradient) if gradient.ndim == 4 else gradient
            for index in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
                at = index + ((2,) if array.ndim == 4 else ())
                before = array[at]
                array[at] = before + 1e-5
                high = loss()
                array[at] = before - 1e-5
                low = loss()
                array[at] = before
                assert abs((high - low) / 2e-5 - gradient[at]) < 1e-4
    without = umfa.merge_backward(
        swap(grad_out), [swap(x) for x in single[0]], single[1], layout=layout
    )
    np.testing.assert_allclose(without[0][0], found[0][0])
    assert not np.allclose(without[1][0], found[1][0])


def test_the_gradient_of_logsumexp(context: umfa.MFAContext, normal: Draw) -> None:
    """Split, merged, and back: the gradients are those of the whole."""
    q, k, v, grad = (
        normal(1, 2, 7, 16),
        normal(1, 2, 20, 16),
        normal(1, 2, 20, 8),
        normal(1, 2, 7, 8),
    )
    grad_lse = normal(1, 2, 7)
    out, lse = umfa.attention(q, k, v, return_logsumexp=True)
    expected = umfa.flash_attention_backward(context, grad, q, k, v, out, lse, grad_lse=grad_lse)
    outs, statistics = parts_of(q, k, v, [0, 9, 20])
    grads, grad_rows = umfa.merge_backward(grad, outs, statistics, grad_lse)
    dq, dk, dv = np.zeros_like(q), [], []
    for (first, last), *part in zip([(0, 9), (9, 20)], outs, statistics, grads, grad_rows):
        found = umfa.flash_attention_backward(
            context, part[2], q, k[:, :, first:last], v[:, :, first:last], part[0], part[1],
            grad_lse=part[3],
        )  # fmt: skip
        dq += found[0]
        dk.append(found[1])
        dv.append(found[2])
    for a, b in zip((dq, np.concatenate(dk, 2), np.concatenate(dv, 2)), expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    without = umfa.flash_attention_backward(context, grad, q, k, v, out, lse)
    assert np.abs(without[0] - expected[0]).max() > 1e-2


def test_bad_merges(normal: Draw) -> None:
    out, lse = normal(1, 2, 7, 16), normal(1, 2, 7)
    merge: Any = umfa.merge
    with pytest.raises(umfa.InvalidArgument, match="0 and 0 arrays, expected as many of both"):
        merge([], [])
    with pytest.raises(umfa.InvalidArgument, match="2 and 1 arrays, expected as many"):
        merge([out, out], [lse])
    with pytest.raises(umfa.InvalidType, match="outs: 3, expected a list of arrays"):
        merge(3, [lse])
    with pytest.raises(umfa.InvalidType, match=r"outs\[0\]: str, expected an array"):
        merge(["x"], [lse])
    with pytest.raises(umfa.InvalidDimensions, match=r"outs\[1\]: shape \(1, 2, 6, 16\), expected"):
        merge([out, out[:, :, :6]], [lse, lse])
    with pytest.raises(umfa.InvalidDimensions, match=r"logsumexps\[1\]: shape \(1, 2, 6\)"):
        merge([out, out], [lse, lse[..., :6]])
    with pytest.raises(umfa.InvalidType, match=r"logsumexps\[0\]: dtype float16, expected float32"):
        merge([out], [lse.astype(np.float16)])
    with pytest.raises(umfa.InvalidType, match=r"outs\[0\]: dtype int8"):
        merge([out.astype(np.int8)], [lse])
    with pytest.raises(umfa.InvalidArgument, match='layout: "NHD"'):
        merge([out], [lse], layout="NHD")
    with pytest.raises(umfa.InvalidType, match="context: 'cpu', expected an MFAContext"):
        merge([out], [lse], "cpu")
    with pytest.raises(umfa.InvalidDimensions, match=r"grad_lse: shape \(2, 7\), expected"):
        umfa.merge_backward(out, [out], [lse], lse[0])


@pytest.mark.parametrize("shape", [(0, 2, 7, 16), (1, 0, 7, 16), (1, 2, 0, 16), (0, 16)])
def test_merges_of_nothing(shape: tuple[int, ...]) -> None:
    out, lse = np.zeros(shape, np.float32), np.zeros(shape[:-1], np.float32)
    merged, total = umfa.merge([out, out], [lse, lse])
    assert merged.shape == shape
    assert total.shape == shape[:-1]
    grads, rows = umfa.merge_backward(out, [out, out], [lse, lse], lse)
    assert [x.shape for x in (*grads, *rows)] == [shape] * 2 + [shape[:-1]] * 2
