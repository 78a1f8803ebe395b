"""The torch operators: gradients through every option, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402

import umfa  # noqa: E402
import umfa.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns about its own internals

sdpa: Any = umfa.torch.scaled_dot_product_attention


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


def test_metal_sdpa_trains() -> None:
    q, k, v = (leaf(2, 2, 8, 8) for _ in range(3))
    umfa.SDPA(precision={"k": "int8", "v": "int8"})(q, k, v).sum().backward()
    assert q.grad is not None
    assert v.grad is not None
    assert v.grad.sum() == pytest.approx(2 * 2 * 8 * 8, rel=1e-4)  # rows of P sum to 1


def test_checkpointing_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    q, k, v = (leaf(1, 2, 8, 8) for _ in range(3))
    plain = torch.autograd.grad(sdpa(q, k, v).sum(), (q, k, v))
    again = torch.autograd.grad(checkpoint(sdpa, q, k, v, use_reentrant=False).sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(plain, again))


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
