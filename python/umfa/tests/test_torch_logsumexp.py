"""logsumexp with its gradient, and parts of attention merged by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch_plain  # noqa: E402

import umfa  # noqa: E402
import umfa.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

attention: Any = umfa.torch.attention
merge: Any = umfa.torch.merge
INF = float("inf")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def compare(inputs: list[Any], which: str, plain_inputs: Any = None, **options: Any) -> None:
    """Result, logsumexp and gradients against plain formulas in float64."""

    def split(values: list[Any]) -> dict[str, Any]:
        return dict(zip(("q", "k", "v", "attn_mask", "sinks"), values))

    out, lse = attention(**split(inputs), alignment="top_left", return_logsumexp=True, **options)
    doubles = [
        None if x is None else x.detach().double().requires_grad_() for x in plain_inputs or inputs
    ]
    for name in ("precision", "granularity"):
        options.pop(name, None)
    exact = torch_plain.attention(**split(doubles), **options)
    weights = [torch.randn_like(x, dtype=torch.float32) for x in (out, lse)]
    weights[1] = torch.where(lse == -INF, torch.zeros_like(lse), weights[1])
    seen = torch.where(lse == -INF, torch.zeros_like(lse), lse)
    exact_seen = torch.where(exact[1] == -INF, torch.zeros_like(exact[1]), exact[1])
    torch.testing.assert_close(seen, exact_seen.float(), rtol=1e-5, atol=1e-5)
    total, exact_total = {
        "lse": ((seen * weights[1]).sum(), (exact_seen * weights[1]).sum()),
        "both": (
            (out * weights[0]).sum() + (seen * weights[1]).sum(),
            (exact[0] * weights[0]).sum() + (exact_seen * weights[1]).sum(),
        ),
    }[which]
    leaves = [x for x in inputs if x is not None]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    expected = torch.autograd.grad(
        exact_total, [x for x in doubles if x is not None], allow_unused=True
    )
    for leaf, a, b in zip(leaves, found, expected):
        b = torch.zeros_like(leaf).double() if b is None else b
        assert a.dtype == leaf.dtype
        tolerance = 2e-5 if leaf.dtype == torch.float32 else 1e-2
        scale = max(float(b.abs().max()), 1e-3)
        assert float((a.double() - b).abs().max()) <= tolerance * scale


def leaves(*shapes: Any, dtype: Any = torch.float32) -> list[Any]:
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


SHAPES = [(2, 4, 37, 16), (2, 2, 53, 16), (2, 2, 53, 24)]


@pytest.mark.parametrize("which", ["lse", "both"])
@pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"softcap": 3.0, "softmax_scale": 0.7}, {"window": (5, 9)}],
)
def test_gradient_of_logsumexp(options: dict[str, Any], which: str) -> None:
    compare(leaves(*SHAPES), which, **options)


@pytest.mark.parametrize("which", ["lse", "both"])
def test_with_a_mask_and_sinks(which: str) -> None:
    inputs = leaves(*SHAPES, (4, 37, 53), (4,))
    with torch.no_grad():
        inputs[3][:, 5] = -INF  # rows without keys, but for the sink
    compare(inputs, which, causal=True)
    compare([*inputs[:4], None], which, window=(20, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: Any) -> None:
    compare(leaves(*SHAPES, dtype=dtype), "both", causal=True)


def test_quantized_keys() -> None:
    inputs = leaves(*SHAPES)
    precise = [
        inputs[0],
        torch.as_tensor(np.asarray(umfa.quantize(inputs[1].detach(), "int8", "row").dequantize())),
        inputs[2],
    ]
    compare(inputs, "both", precise, precision={"k": "int8"}, granularity="row")


def test_few_rows_and_some_gradients() -> None:
    """Decoding; and where the engine is not asked for all of them."""
    q, k, v = leaves((1, 8, 1, 32), (1, 2, 300, 32), (1, 2, 300, 32))
    compare([q, k, v], "lse")
    for place in range(3):
        inputs = [x.detach() for x in (q, k, v)]
        inputs[place].requires_grad_()
        attention(*inputs, return_logsumexp=True)[1].sum().backward()
        full = torch.autograd.grad(attention(q, k, v, return_logsumexp=True)[1].sum(), (q, k, v))
        torch.testing.assert_close(inputs[place].grad, full[place], rtol=1e-5, atol=1e-6)


def test_given_d_is_checked() -> None:
    x = np.ones((1, 2, 5, 8), np.float32)
    context = umfa.MFAContext()
    out, lse = umfa.attention(x, x, x, return_logsumexp=True)
    backward = umfa.flash_attention_backward
    plain = backward(context, x, x, x, x, out, lse)
    given = backward(context, x, x, x, x, None, lse, d_values=(x * out).sum(-1))
    for a, b in zip(plain, given):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    with pytest.raises(umfa.InvalidDimensions, match=r"d_values: shape \(1, 5\), expected"):
        backward(context, x, x, x, x, out, lse, d_values=lse[:, 0])
    with pytest.raises(umfa.InvalidType, match="d_values: dtype float16"):
        backward(context, x, x, x, x, out, lse, d_values=lse.astype(np.float16))


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("cuts", [(20,), (1, 2, 52), (0, 30), ()])
def test_merge_is_one_call(cuts: tuple[int, ...], layout: Any) -> None:
    """Parts of the keys, one of which may be empty: result, logsumexp and gradients."""
    q, k, v = leaves(*SHAPES)
    mask = torch.randn(37, 53)
    mask[4] = -INF
    mask[9, :20] = -INF
    axis = 2 if layout == "BHND" else 1

    def ordered(x: Any) -> Any:
        return x if layout == "BHND" else x.transpose(1, 2)

    def call(k: Any, v: Any, mask: Any) -> Any:
        given = (ordered(x) for x in (q, k, v))
        return attention(*given, attn_mask=mask, layout=layout, return_logsumexp=True)

    pieces = zip(*(x.tensor_split(cuts, at) for x, at in ((k, 2), (v, 2), (mask, 1))))
    outs, lses = zip(*(call(*piece) for piece in pieces))
    out, lse = merge(outs, lses, layout=layout)
    whole_out, whole_lse = call(k, v, mask)
    assert out.shape[axis] == 37
    torch.testing.assert_close(out, whole_out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-5, atol=1e-5)
    grads = torch.randn_like(out), torch.randn_like(lse)
    found = torch.autograd.grad((out, lse), (q, k, v), grads)
    expected = torch.autograd.grad((whole_out, whole_lse), (q, k, v), grads)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_merge_alone() -> None:
    """In float64: its formula, its gradients, also of rows that no part has keys for."""
    outs = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lses = [torch.randn(2, 3, dtype=torch.float64) * 300 for _ in range(3)]
    for x in lses:
        x[0, 1] = -INF
    lses[1][1] = -INF
    out, lse = merge(outs, lses)
    parts = torch.stack(lses)
    torch.testing.assert_close(lse, parts.logsumexp(0))
    assert (out[0, 1] == 0).all()
    small = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: merge(x[:3], x[3:]), (*outs, *small))
    lses = [x.requires_grad_() for x in lses]
    out, lse = merge(outs, lses)
    seen = torch.where(lse == -INF, torch.zeros_like(lse), lse)
    (out.sum() + seen.sum()).backward()
    for x in (*outs, *lses):
        assert x.grad.isfinite().all()
    assert (torch.stack([x.grad for x in lses])[:, 0, 1] == 0).all()


def test_parts_without_keys_do_not_count() -> None:
    outs = [torch.randn(2, 3, 4).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        outs[1][0] = torch.nan
    lses = [torch.randn(2, 3), torch.randn(2, 3)]
    lses[1][0] = -INF
    lses[0][1, 2] = -INF
    lses = [x.requires_grad_() for x in lses]
    out, lse = merge(outs, lses)
    torch.testing.assert_close(out[0], outs[0][0])
    torch.testing.assert_close(out[1, 2], outs[1][1, 2])
    (out.sum() + lse.sum()).backward()
    assert all(x.grad.isfinite().all() for x in (*outs, *lses))


def test_merge_of_halves_keeps_their_dtype() -> None:
    q, k, v = (x.half() for x in torch.randn(3, 1, 2, 8, 16))
    parts = [
        attention(q, k[:, :, a:b], v[:, :, a:b], return_logsumexp=True) for a, b in ((0, 3), (3, 8))
    ]
    out, lse = merge(*zip(*parts))
    assert (out.dtype, lse.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(out, attention(q, k, v), rtol=2e-3, atol=2e-3)


def test_what_merge_refuses() -> None:
    out, lse = torch.ones(2, 3, 4, 8), torch.ones(2, 3, 4)
    with pytest.raises(umfa.InvalidArgument, match="0 and 0 tensors"):
        merge([], [])
    with pytest.raises(umfa.InvalidArgument, match="2 and 1 tensors"):
        merge([out, out], [lse])
    with pytest.raises(umfa.InvalidDimensions, match=r"outs\[1\]: shape \(2, 3, 1, 8\), expected"):
        merge([out, out[:, :, :1]], [lse, lse])
    with pytest.raises(umfa.InvalidDimensions, match=r"logsumexps\[0\]: shape \(2, 4, 3\)"):
        merge([out], [lse.transpose(1, 2)])
    with pytest.raises(umfa.InvalidDimensions, match=r"logsumexps\[0\]: shape \(2, 3, 4\)"):
        merge([out], [lse], layout="BNHD")
    with pytest.raises(umfa.InvalidArgument, match="layout: 'x'"):
        merge([out], [lse], layout="x")
