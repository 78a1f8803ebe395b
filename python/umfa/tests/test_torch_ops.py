"""The torch operators: gradients, compile, vmap, autocast, checkpointing."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

# torch.compile imports setuptools, which asserts that nobody imported the standard distutils.
if sys.version_info < (3, 12):
    os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402

import umfa  # noqa: E402
import umfa.torch  # noqa: E402
from umfa.torch import _ops  # noqa: E402

# Compiling C++ takes longer than a test usually may; torch warns about its own internals.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

sdpa = umfa.torch.scaled_dot_product_attention
KV8: dict[str, Any] = {"precision": {"k": "int8", "v": "int8"}, "granularity": "row"}


def leaf(*shape: int, dtype: Any = None) -> Any:
    return torch.randn(*shape, dtype=dtype or torch.float32).requires_grad_()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def plain_errors(q: Any, k: Any, v: Any, mask: Any, g: Any, **options: Any) -> None:
    """Gradients against torch's in float64: three times the error of torch's own in float32."""
    inputs = [x for x in (q, k, v, mask) if x is not None and x.is_floating_point()]
    out = sdpa(q, k, v, mask, **options)
    found = torch.autograd.grad(out, inputs, g)
    naive_out = F.scaled_dot_product_attention(q, k, v, mask, **options)
    naive = torch.autograd.grad(naive_out, inputs, g)
    doubles = [x if x is None or x.dtype == torch.bool else x.double() for x in (q, k, v, mask)]
    exact_out = F.scaled_dot_product_attention(*doubles, **options)
    exact = torch.autograd.grad(exact_out, inputs, g.double())
    for mine, theirs, want in zip(found, naive, exact):
        floor = 2**-22 * want.abs().max()
        assert mine.dtype == want.dtype
        assert (mine - want).abs().max() <= 3 * (theirs - want).abs().max() + floor
        cosine = F.cosine_similarity(mine.double().flatten(), want.double().flatten(), dim=0)
        assert cosine >= 0.99999


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (12, 4), (5, 1)])
def test_gradients_are_torchs(heads: int, kv_heads: int, causal: bool) -> None:
    q, k, v = leaf(2, heads, 37, 32), leaf(2, kv_heads, 53, 32), leaf(2, kv_heads, 53, 24)
    grad = torch.randn(2, heads, 37, 24)
    plain_errors(q, k, v, None, grad, is_causal=causal, enable_gqa=True)


@pytest.mark.parametrize("shape", [(37, 53), (1, 1, 1, 53), (2, 4, 1, 53)])
def test_gradient_of_an_added_mask(shape: tuple[int, ...]) -> None:
    q, k, v = leaf(2, 4, 37, 16), leaf(2, 4, 53, 16), leaf(2, 4, 53, 16)
    plain_errors(q, k, v, leaf(*shape), torch.randn(2, 4, 37, 16))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_straight_through_quantized_keys_and_values(precision: Any) -> None:
    """Gradients are those of plain attention on the dequantized operands."""
    q, k, v = leaf(1, 6, 40, 32), leaf(1, 2, 64, 32), leaf(1, 2, 64, 32)
    options: dict[str, Any] = {
        "precision": {"k": precision, "v": precision},
        "granularity": "row",
    }
    out = sdpa(q, k, v, is_causal=True, enable_gqa=True, **options)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), grad)
    with torch.no_grad():
        rounded = [umfa.quantize(x, precision, "row").dequantize() for x in (k, v)]
    k2, v2 = (x.clone().double().requires_grad_() for x in rounded)
    q2 = q.detach().double().requires_grad_()
    exact_out = F.scaled_dot_product_attention(q2, k2, v2, is_causal=True, enable_gqa=True)
    exact = torch.autograd.grad(exact_out, (q2, k2, v2), grad.double())
    for mine, want in zip(found, exact):
        assert F.cosine_similarity(mine.double().flatten(), want.flatten(), dim=0) >= 0.99999
        assert (mine - want).norm() <= 2e-4 * want.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: Any) -> None:
    q, k, v = (leaf(1, 2, 33, 16, dtype=dtype) for _ in range(3))
    out = sdpa(q, k, v)
    assert out.dtype == dtype
    out.float().sum().backward()
    for x in (q, k, v):
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()


def arguments(q: Any, k: Any, v: Any, quantization: str = "", mask: Any = None) -> tuple[Any, ...]:
    plain = (False, None, -1, -1, 0.0, "top_left", "exact", quantization, False, 0)
    return (q, k, v, mask, None, None, None, None, *plain)


@pytest.mark.parametrize("quantization", ["", _ops._encode(KV8)])
def test_opcheck(quantization: str) -> None:
    q, k, v = leaf(1, 4, 9, 8), leaf(1, 2, 11, 8), leaf(1, 2, 11, 8)
    torch.library.opcheck(_ops.attention_op, arguments(q, k, v, quantization))
    torch.library.opcheck(_ops.attention_op, arguments(q, k, v, quantization, leaf(1, 1, 9, 11)))


def test_gradcheck_in_float32() -> None:
    """Finite differences of the operator itself: float32, so steps and tolerances are wide."""
    q, k, v = (leaf(1, 2, 4, 4) for _ in range(3))

    def call(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q, k, v, is_causal=True).double()

    assert torch.autograd.gradcheck(call, (q, k, v), eps=1e-2, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("options", [{}, KV8])
def test_compile_without_graph_breaks(options: dict[str, Any]) -> None:
    def call(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q * 2, k, v, is_causal=True, enable_gqa=True, **options) + 1

    inputs = [leaf(1, 4, 16, 8), leaf(1, 2, 16, 8), leaf(1, 2, 16, 8)]
    compiled = torch.compile(call, fullgraph=True)(*inputs)
    eager = call(*inputs)
    torch.testing.assert_close(compiled, eager)
    grad = torch.randn_like(eager)
    for mine, want in zip(
        torch.autograd.grad(compiled, inputs, grad), torch.autograd.grad(eager, inputs, grad)
    ):
        torch.testing.assert_close(mine, want)


def test_metal_sdpa_trains() -> None:
    q, k, v = (leaf(2, 2, 8, 8) for _ in range(3))
    umfa.MetalSDPA(precision={"k": "int8", "v": "int8"})(q, k, v).sum().backward()
    assert q.grad is not None
    assert v.grad is not None
    assert v.grad.sum() == pytest.approx(2 * 2 * 8 * 8, rel=1e-4)  # rows of P sum to 1


@pytest.mark.parametrize("dims", [(0, 0, 0), (1, None, 0), (None, 0, 2)])
def test_vmap(dims: tuple[Any, ...]) -> None:
    size = 3

    def mapped(dim: int | None) -> Any:
        x = torch.randn(2, 4, 9, 8)
        return x if dim is None else torch.stack([x + i for i in range(size)], dim)

    inputs = [mapped(dim) for dim in dims]
    together = torch.func.vmap(sdpa, in_dims=dims)(*inputs)
    for i in range(size):
        one = [x if dim is None else x.select(dim, i) for x, dim in zip(inputs, dims)]
        torch.testing.assert_close(together[i], sdpa(*one))


def test_autocast() -> None:
    q, k, v = (leaf(1, 2, 8, 8) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sdpa(q, k, v)
        assert out.dtype == F.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16
    out.sum().backward()
    assert q.grad.dtype == torch.float32


def test_checkpointing_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    q, k, v = (leaf(1, 2, 8, 8) for _ in range(3))
    plain = torch.autograd.grad(sdpa(q, k, v).sum(), (q, k, v))
    again = torch.autograd.grad(checkpoint(sdpa, q, k, v, use_reentrant=False).sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(plain, again))


def test_double_backward_is_refused() -> None:
    q, k, v = (leaf(1, 2, 8, 8) for _ in range(3))
    (first,) = torch.autograd.grad(sdpa(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        first.sum().backward()


def test_clip_zeroes_what_rounding_clipped() -> None:
    q, k, v = (leaf(1, 1, 8, 32) for _ in range(3))
    out = sdpa(q, k, v, precision={"k": "int8"}, granularity="row", clip=True)
    out.sum().backward()
    codes = umfa.quantize(k.detach(), "int8", "row").data
    ends = torch.as_tensor(codes).abs() == 127
    assert ends.any()
    assert (k.grad[ends] == 0).all()
    assert (k.grad[~ends] != 0).any()


def test_a_context_of_the_callers() -> None:
    q, k, v = (leaf(1, 2, 8, 8) for _ in range(3))
    with umfa.MFAContext(num_threads=1) as context:
        out = sdpa(q, k, v, context=context)
        out.sum().backward()
        assert context.latency > 0
    torch.testing.assert_close(out, sdpa(q, k, v))


def test_window_softcap_and_sinks() -> None:
    q, k, v = (leaf(1, 2, 12, 8) for _ in range(3))
    sinks = leaf(2)
    out = sdpa(q, k, v, is_causal=True, window=(3, 0), softcap=5.0, sinks=sinks)
    scores = 5 * torch.tanh(q @ k.mT / 8**0.5 / 5)
    at = torch.arange(12)
    seen = (at[None] <= at[:, None]) & (at[None] >= at[:, None] - 3)
    scores = torch.cat(
        [scores.masked_fill(~seen, -torch.inf), sinks[:, None, None].expand(1, 2, 12, 1)], -1
    )
    want = scores.softmax(-1)[..., :-1] @ v
    torch.testing.assert_close(out, want)
    grad = torch.randn_like(out)
    for mine, exact in zip(
        torch.autograd.grad(out, (q, k, v, sinks), grad),
        torch.autograd.grad(want, (q, k, v, sinks), grad),
    ):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-5)
