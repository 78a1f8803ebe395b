"""Operands of float64: computed in float64, forward and backward; slow, exact, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Array = npt.NDArray[np.float64]


def drawn(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Array]:
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.fixture
def attend(rng: np.random.Generator) -> Any:
    """`umfa.attention`, where the device has float64; tests of others end here."""
    x = rng.standard_normal((2, 4))
    try:
        umfa.attention(x, x, x)
    except umfa.Unsupported as problem:
        pytest.skip(str(problem))
    return umfa.attention


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("options", [
    {},
    {"causal": True, "alignment": "bottom_right"},
    {"softcap": 2.0, "softmax_scale": 0.75},
    {"window": (2, 1), "alignment": "top_left", "sinks": [0.1, 0.2, 0.3, 0.4]},
])  # fmt: skip
def test_results_are_those_of_the_reference(
    attend: Any, rng: np.random.Generator, layout: str, options: dict[str, Any]
) -> None:
    q, k, v = drawn(rng, (2, 4, 6, 9), (2, 2, 8, 9), (2, 2, 8, 5))
    bias = rng.standard_normal((6, 8))
    turn: Any = (lambda x: x.swapaxes(1, 2)) if layout == "BNHD" else (lambda x: x)
    found, lse = attend(
        turn(q), turn(k), turn(v), attn_mask=bias, layout=layout, return_logsumexp=True, **options
    )
    assert found.dtype == lse.dtype == np.float64
    formula = dict(options)
    if "softmax_scale" in formula:
        formula["scale"] = formula.pop("softmax_scale")
    if "sinks" in formula:
        formula["sinks"] = np.array(formula["sinks"])
    expected, rows = plain.attention(q, k, v, mask=bias, **formula)
    np.testing.assert_allclose(turn(found), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lse, rows, rtol=1e-12, atol=1e-12)


def test_gradients_are_finite_differences(
    attend: Any, context: umfa.MFAContext, rng: np.random.Generator
) -> None:
    q, k, v, grad = drawn(rng, (1, 2, 3, 4), (1, 1, 5, 4), (1, 1, 5, 3), (1, 2, 3, 3))
    bias, sinks, grad_lse = (
        rng.standard_normal((3, 5)),
        rng.standard_normal(2),
        rng.random((1, 2, 3)),
    )
    options: Any = {"attn_mask": bias, "sinks": sinks, "softcap": 3.0}

    def loss() -> float:
        out, lse = attend(q, k, v, return_logsumexp=True, **options)
        return float((out * grad).sum() + (lse * grad_lse).sum())

    out, lse = attend(q, k, v, return_logsumexp=True, **options)
    found = umfa.flash_attention_backward(
        context,
        grad,
        q,
        k,
        v,
        out,
        lse,
        grad_lse=grad_lse,
        grad_mask=True,
        grad_sinks=True,
        **options,
    )
    for array, gradient in zip((q, k, v, bias, sinks), found):
        assert gradient.dtype == np.float64
        for at in np.ndindex(*array.shape):
            before = array[at]
            array[at] = before + 1e-6
            high = loss()
            array[at] = before - 1e-6
            low = loss()
            array[at] = before
            assert abs((high - low) / 2e-6 - gradient[at]) < 1e-8


def test_other_doors_and_libraries(
    attend: Any, context: umfa.MFAContext, rng: np.random.Generator, torch: Any
) -> None:
    q, k = drawn(rng, (2, 4, 6, 8), (2, 4, 7, 8))
    expected = attend(q, k, k)
    np.testing.assert_array_equal(umfa.sdpa(q, k, k), expected)
    np.testing.assert_array_equal(umfa.flash_attention_forward(context, q, k, k), expected)
    tensors = [torch.from_numpy(x) for x in (q, k)]
    found = attend(tensors[0], tensors[1], tensors[1])
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), expected)
    out = np.empty_like(expected)
    assert attend(q, k, k, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert "FP64" in umfa.explain(q, k, k)
    assert umfa.workspace_size(q, k, k, backward=True) > 0
    packed: Any = {"cu_seqlens_q": [0, 4, 6], "cu_seqlens_k": [0, 3, 7]}
    parts = attend(q[0], k[0], k[0], **packed)
    alone = attend(q[:1, :, 4:], k[:1, :, 3:], k[:1, :, 3:])
    np.testing.assert_allclose(parts[:, 4:], alone[0], rtol=1e-13)
    for shape in ((0, 2, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)):
        x = np.zeros(shape)
        assert attend(x, x, np.zeros((*shape[:-1], 5))).shape == (*shape[:-1], 5)


def test_it_is_the_reference_of_float32(attend: Any, rng: np.random.Generator) -> None:
    q, k = drawn(rng, (1, 2, 65, 64), (1, 2, 129, 64))
    exact = attend(q, k, k)
    few, some = q.astype(np.float32), k.astype(np.float32)
    single = umfa.attention(few, some, some)
    assert 0 < np.abs(single - exact).max() < 1e-5


def test_nothing_else_goes_beside_it(attend: Any, rng: np.random.Generator) -> None:
    (x,) = drawn(rng, (1, 2, 6, 8))
    single = x.astype(np.float32)
    k8: Any = umfa.quantize(single)
    wide: list[Any] = [(x, single, x), (x, x, single), (x, k8, x)]
    narrow: list[Any] = [(single, x, single), (k8, x, single)]
    for arguments in wide:
        with pytest.raises(umfa.InvalidType, match="expected float64 beside q of float64"):
            attend(*arguments)
    for arguments in narrow:
        with pytest.raises(umfa.InvalidType, match="k: dtype float64, expected float32, float16"):
            attend(*arguments)
    with pytest.raises(umfa.InvalidArgument, match="precision: given with q of float64"):
        attend(x, x, x, precision="int8")
    with pytest.raises(
        umfa.InvalidType, match="attn_mask: dtype float32, expected bool or float64"
    ):
        attend(x, x, x, attn_mask=np.zeros((6, 6), np.float32))
    with pytest.raises(umfa.InvalidType, match="out: dtype float32, expected float64"):
        attend(x, x, x, out=np.empty_like(single))
    with pytest.raises(umfa.InvalidType, match="x: dtype float64, expected float32"):
        umfa.quantize(x)
