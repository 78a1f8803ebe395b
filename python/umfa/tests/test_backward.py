"""flash_attention_backward: arguments, shapes, kinds, and gradients against torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]


def differences(
    loss: Callable[[npt.NDArray[np.float64]], float], x: npt.NDArray[Any], step: float = 1e-5
) -> npt.NDArray[np.float64]:
    """The gradient of `loss` at `x` by central differences in float64."""
    x = x.astype(np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        x[index] = kept + step
        above = loss(x)
        x[index] = kept - step
        gradient[index] = (above - loss(x)) / (2 * step)
        x[index] = kept
    return gradient


def test_gradients_by_finite_differences(normal: Draw, context: umfa.MFAContext) -> None:
    q, k, v = normal(1, 4, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 6)
    mask, sinks, grad = normal(1, 1, 3, 5), normal(4), normal(1, 4, 3, 6)
    options: Any = {"causal": True, "alignment": "bottom_right", "softcap": 3.0}
    out, lse = umfa.attention(
        q, k, v, attn_mask=mask, sinks=sinks, return_logsumexp=True, **options
    )
    found = umfa.flash_attention_backward(
        context, grad, q, k, v, out, lse,
        attn_mask=mask, sinks=sinks, grad_mask=True, grad_sinks=True, **options,
    )  # fmt: skip
    assert [x.shape for x in found] == [x.shape for x in (q, k, v, mask, sinks)]
    inputs = [q, k, v, mask, sinks]

    def loss(x: Any, place: int) -> float:
        a, b, c, bias, drains = (x if i == place else y for i, y in enumerate(inputs))
        result = plain.attention(
            a, b, c, causal=True, alignment="bottom_right", softcap=3.0, mask=bias, sinks=drains
        )[0]
        return float((result * grad).sum())

    for place, gradient in enumerate(found):
        expected = differences(lambda x, place=place: loss(x, place), inputs[place])  # type: ignore[misc]
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_as_in_torch(torch: Any, context: Any, layout: Any, dtype: str) -> None:
    q, k, v = torch.randn(2, 4, 33, 16), torch.randn(2, 2, 40, 16), torch.randn(2, 2, 40, 16)
    given = [x.to(getattr(torch, dtype)) for x in (q, k, v)]
    leaves = [x.double().requires_grad_() for x in given]
    result = torch.nn.functional.scaled_dot_product_attention(
        *leaves, is_causal=True, enable_gqa=True
    )
    grad = torch.randn_like(result).to(given[0].dtype)
    expected = torch.autograd.grad(result, leaves, grad.double())
    if layout == "BNHD":
        given, grad = [x.transpose(1, 2) for x in given], grad.transpose(1, 2)
    options: Any = {"causal": True, "alignment": "top_left", "layout": layout}
    out, lse = umfa.attention(*given, return_logsumexp=True, **options)
    for output in (out, None):
        a, b, c = given
        found = umfa.flash_attention_backward(context, grad, a, b, c, output, lse, **options)
        for ours, theirs in zip(found, expected):
            assert ours.dtype == torch.float32
            ours = ours.transpose(1, 2) if layout == "BNHD" else ours
            error = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
            assert error < (1e-5 if dtype == "float32" else 1e-2)


def test_quantized_operands(normal: Draw, context: umfa.MFAContext) -> None:
    q, k, v, grad = (normal(1, 2, 40, 32) for _ in range(4))
    form: Any = {"granularity": "row", "smooth": True, "rotate": True}
    k8, v8 = umfa.quantize(k, "int8", **form), umfa.quantize(v, "int8", "row", rotate=True)
    out, lse = umfa.attention(q, k8, v8, return_logsumexp=True)
    found = umfa.flash_attention_backward(context, grad, q, k8, v8, out, lse)
    again = umfa.flash_attention_backward(
        context, grad, q, k, v, out, lse, precision={"k": "int8", "v": "int8"}, **form
    )
    real = (q, k8.dequantize(), v8.dequantize())
    out, lse = umfa.attention(*real, return_logsumexp=True)
    expected = umfa.flash_attention_backward(context, grad, *real, out, lse)
    for a, b, c in zip(found, again, expected):
        np.testing.assert_array_equal(a, b)
        assert plain.rms(a - c) <= 1e-3 * plain.rms(c)


def test_only_what_is_needed(normal: Draw, context: umfa.MFAContext) -> None:
    x = normal(2, 9, 16)
    out, lse = umfa.attention(x, x, x, return_logsumexp=True)
    every = umfa.flash_attention_backward(context, x, x, x, x, out, lse)
    for place in range(3):
        need: Any = tuple(i == place for i in range(3))
        some = umfa.flash_attention_backward(context, x, x, x, x, out, lse, need=need)
        np.testing.assert_array_equal(some[place], every[place])
        assert [s is None for s in some] == [not n for n in need]


def test_bad_input(normal: Draw, context: umfa.MFAContext) -> None:
    x = normal(1, 2, 5, 8)
    out, lse = umfa.attention(x, x, x, return_logsumexp=True)
    backward = umfa.flash_attention_backward
    with pytest.raises(umfa.InvalidDimensions, match="grad_out: shape"):
        backward(context, x[:, :1], x, x, x, out, lse)
    with pytest.raises(umfa.InvalidDimensions, match=r"lse: shape \(1, 2\), expected \(1, 2, 5\)"):
        backward(context, x, x, x, x, out, lse[..., 0])
    with pytest.raises(umfa.InvalidType, match="lse: dtype float16"):
        backward(context, x, x, x, x, out, lse.astype(np.float16))
    with pytest.raises(umfa.InvalidArgument, match="grad_mask: expected a float attn_mask"):
        backward(context, x, x, x, x, out, lse, grad_mask=True)
    with pytest.raises(umfa.InvalidArgument, match="grad_sinks: given without sinks"):
        backward(context, x, x, x, x, out, lse, grad_sinks=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'out_layout'"):
        backward(context, x, x, x, x, out, lse, out_layout=1)  # type: ignore[call-arg]


def test_the_plan_of_backward(normal: Draw) -> None:
    x = normal(1, 2, 64, 32)
    assert "backward" in umfa.explain(x, x, x, backward=True, precision={"k": "int8"})
    assert umfa.workspace_size(x, x, x, backward=True) > 0
