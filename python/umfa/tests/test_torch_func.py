"""Function transforms over the operators: vmap, torch.func, forward mode, double backward."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.autograd.forward_ad as forward_ad  # noqa: E402
import torch_plain  # noqa: E402

import umfa  # noqa: E402
import umfa.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

func: Any = torch.func
grad, vjp, jacrev, vmap = func.grad, func.vjp, func.jacrev, func.vmap
jvp, jacfwd, linearize, hessian = func.jvp, func.jacfwd, func.linearize, func.hessian
sdpa: Any = umfa.torch.scaled_dot_product_attention
attention: Any = umfa.torch.attention
SIZE = 3
PLACES = (None, 0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def mapped(shape: tuple[int, ...], dim: int | None) -> Any:
    """Random numbers of `shape`, other ones along a mapped dimension."""
    return torch.randn(shape if dim is None else (*shape[:dim], SIZE, *shape[dim:]))


def one(x: Any, dim: int | None, index: int) -> Any:
    return x if dim is None else x.select(dim, index)


def compare(call: Any, inputs: list[Any], dims: tuple[Any, ...], exact: bool = False) -> None:
    """vmap of a call is the call on each element."""
    together = vmap(call, in_dims=dims, randomness="error")(*inputs)
    together = together if isinstance(together, tuple) else (together,)
    for index in range(SIZE):
        apart = call(*(one(x, dim, index) for x, dim in zip(inputs, dims)))
        apart = apart if isinstance(apart, tuple) else (apart,)
        for found, expected in zip(together, apart):
            tolerance = 0 if exact else 2e-6
            torch.testing.assert_close(found[index], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("dim", PLACES)
def test_vmap_of_an_operand(place: int, dim: int | None) -> None:
    dims: list[int | None] = [None if dim == 4 else 4, 2, None]
    dims[place] = dim
    shapes = [(2, 6, 7, 8), (2, 3, 9, 8), (2, 3, 9, 5)]
    inputs = [mapped(shape, at) for shape, at in zip(shapes, dims)]
    if dims == [None, None, None]:
        dims[0], inputs[0] = 0, mapped(shapes[0], 0)
    compare(lambda q, k, v: sdpa(q, k, v, enable_gqa=True), inputs, tuple(dims))


MASKS = [(7, 9), (9,), (6, 7, 9), (6, 1, 9), (2, 6, 7, 9), (1, 6, 7, 9), (2, 1, 1, 9), (1, 1, 7, 1)]


@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize("others", [None, 1])
@pytest.mark.parametrize("shape", MASKS)
def test_vmap_of_a_mask(shape: tuple[int, ...], others: int | None, kind: str) -> None:
    for dim in (None, *range(len(shape) + 1)):
        if dim is None and others is None:
            continue
        dims = (others, others, others, dim)
        shapes = [(2, 6, 7, 8), (2, 3, 9, 8), (2, 3, 9, 5), shape]
        inputs = [mapped(shape, at) for shape, at in zip(shapes, dims)]
        if kind == "bool":
            inputs[3] = inputs[3] > -0.3
        compare(lambda q, k, v, m: sdpa(q, k, v, m, enable_gqa=True), inputs, dims)


@pytest.mark.parametrize("rank", [1, 2])
def test_vmap_of_slopes(rank: int) -> None:
    shape = (2, 6)[2 - rank :]
    for dim, others in itertools.product((None, *range(rank + 1)), (None, 2)):
        dims = (others, None, others, dim)
        if not any(at is not None for at in dims):
            continue
        inputs = [mapped(s, at) for s, at in zip([(2, 6, 7, 8)] + [(2, 6, 9, 8)] * 2, dims)]
        inputs.append(mapped(shape, dim).abs())

        def call(q: Any, k: Any, v: Any, slopes: Any) -> Any:
            return sdpa(q, k, v, alibi_slopes=slopes)

        compare(call, inputs, dims)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_vmap_of_sinks(dim: int | None) -> None:
    for others in (None, 3):
        if dim is None and others is None:
            continue
        dims = (others, others, None, dim)
        inputs = [mapped(s, at) for s, at in zip([(2, 6, 7, 8)] + [(2, 2, 9, 8)] * 2, dims)]
        inputs.append(mapped((6,), dim))

        def call(q: Any, k: Any, v: Any, sinks: Any) -> Any:
            return attention(q, k, v, sinks=sinks, return_logsumexp=True)

        compare(call, inputs, dims)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_vmap_of_key_lengths(dim: int | None) -> None:
    used = torch.tensor([[9, 3], [0, 1], [4, 9]], dtype=torch.int32)
    used = used[0] if dim is None else used.movedim(0, dim)
    for others in (None, 2):
        if dim is None and others is None:
            continue
        dims = (others, None, others, dim)
        inputs = [mapped(s, at) for s, at in zip([(2, 6, 7, 8)] + [(2, 2, 9, 8)] * 2, dims)]

        def call(q: Any, k: Any, v: Any, used: Any) -> Any:
            return attention(q, k, v, seqlens_k=used, return_logsumexp=True)

        compare(call, [*inputs, used], dims)

        def gradient(q: Any, k: Any, v: Any, used: Any) -> Any:
            return grad(loss(lambda q, k, v: call(q, k, v, used)[0]), argnums=(0, 1, 2))(q, k, v)

        compare(gradient, [*inputs, used], dims)


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
def test_vmap_of_packed_sequences(layout: str) -> None:
    q, k, v = torch.randn(8, SIZE, 2, 8), torch.randn(8, 2, 8), torch.randn(SIZE, 8, 2, 8)
    if layout == "BHND":
        q, k, v = q.transpose(0, 2), k.transpose(0, 1), v.transpose(1, 2)
    ends = torch.tensor([0, 3, 3, 8], dtype=torch.int32)

    def call(q: Any, k: Any, v: Any, ends: Any) -> Any:
        return attention(q, k, v, layout=layout, cu_seqlens_q=ends, cu_seqlens_k=ends, causal=True)

    compare(call, [q, k, v, ends], (1, None, 0, None))
    other = torch.tensor([[0, 3, 3, 8], [0, 1, 2, 8], [0, 8, 8, 8]], dtype=torch.int32)
    compare(call, [q, k, v, other], (1, None, 0, 0))
    compare(call, [q.select(1, 0), k, v[0], other.T], (None, None, None, 1))


@pytest.mark.parametrize("granularity", ["tensor", "row", {"k": "channel"}])
def test_vmap_quantizes_each_element(granularity: Any) -> None:
    """As a call of its own would: what shares one scale is quantized apart."""

    def call(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q, k, v, precision={"k": "int8", "v": "int4"}, granularity=granularity)

    k = torch.randn(SIZE, 2, 4, 9, 32) * torch.tensor([1.0, 10, 100]).view(-1, 1, 1, 1, 1)
    compare(call, [torch.randn(2, 4, 7, 32), k, k.movedim(0, 2)], (None, 0, 2), exact=True)


def test_vmap_in_vmap() -> None:
    outer, inner = 2, 5
    q, k = torch.randn(outer, inner, 2, 3, 4, 8), torch.randn(2, outer, 3, 6, 8)
    v, mask = torch.randn(2, 3, 6, 8, inner), torch.randn(4, inner, outer, 6)
    within = vmap(sdpa, in_dims=(0, None, 4, 1), out_dims=-1)
    found = vmap(within, in_dims=(0, 1, None, 2), out_dims=1)(q, k, v, mask)
    for i, j in itertools.product(range(outer), range(inner)):
        expected = sdpa(q[i, j], k[:, i], v[..., j], mask[:, j, i])
        torch.testing.assert_close(found[:, i, ..., j], expected)


def test_vmap_over_nothing() -> None:
    x = torch.randn(0, 2, 4, 5, 8)
    assert vmap(sdpa)(x, x, x).shape == x.shape
    sinks = torch.randn(0, 4)
    found = vmap(lambda q, s: attention(q, q, q, sinks=s))(x, sinks)
    assert found.shape == x.shape


def loss(call: Any) -> Any:
    return lambda *inputs: (call(*inputs) * torch.linspace(-1, 1, 8)).square().sum()


def everything(q: Any, k: Any, v: Any, mask: Any, sinks: Any) -> Any:
    return attention(q, k, v, attn_mask=mask, sinks=sinks, causal=True, softcap=9.0)


def plain_everything(q: Any, k: Any, v: Any, mask: Any, sinks: Any) -> Any:
    return torch_plain.attention(q, k, v, mask, sinks=sinks, causal=True, softcap=9.0)[0]


def operands(*batch: int) -> list[Any]:
    shapes = [(2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8), (2, 1, 6, 6), (4,)]
    return [torch.randn(*batch, *shape) for shape in shapes]


def test_func_grad_and_vjp() -> None:
    inputs = operands()
    places = tuple(range(5))
    found = grad(loss(everything), argnums=places)(*inputs)
    expected = grad(loss(plain_everything), argnums=places)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    out, pull = vjp(everything, *inputs)[:2]
    cotangent = torch.randn_like(out)
    _, plain_pull = vjp(plain_everything, *inputs)[:2]
    expected = plain_pull(cotangent)
    torch.testing.assert_close(pull(cotangent), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", range(5))
def test_jacrev(place: int) -> None:
    """Its rows are mapped over the gradient of the result alone."""
    inputs = [x[:1] if x.ndim == 4 else x for x in operands()]
    found = jacrev(everything, argnums=place)(*inputs)
    expected = jacrev(plain_everything, argnums=place)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [(), (0,), (1, 2), (3,), (4,), (0, 3, 4)])
def test_per_sample_gradients(shared: tuple[int, ...]) -> None:
    """vmap(grad): what is shared has a gradient for each sample, too."""
    inputs = [x[0] if at in shared else x for at, x in enumerate(operands(SIZE))]
    dims = tuple(None if at in shared else 0 for at in range(5))
    gradients = grad(loss(everything), argnums=tuple(range(5)))
    found = vmap(gradients, in_dims=dims)(*inputs)
    for index in range(SIZE):
        expected = gradients(*(one(x, dim, index) for x, dim in zip(inputs, dims)))
        for a, b in zip(found, expected):
            torch.testing.assert_close(a[index], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 6), (4, 1, 6), (1, 1, 6, 6), (2, 4, 6, 6)])
@pytest.mark.parametrize("dim", [None, 0, -1])
def test_per_sample_gradients_of_a_mask(shape: tuple[int, ...], dim: int | None) -> None:
    q = torch.randn(2, SIZE, 4, 6, 8)
    mask = torch.randn(shape)
    if dim is not None:
        mask = torch.stack([mask * (index + 1) for index in range(SIZE)], dim)
    gradients = grad(loss(lambda m, q: sdpa(q, q, q, m)))
    found = vmap(gradients, in_dims=(dim, 1), out_dims=-1)(mask, q)
    for index in range(SIZE):
        expected = gradients(one(mask, dim, index), q[:, index])
        torch.testing.assert_close(found[..., index], expected, rtol=1e-5, atol=1e-5)


def test_grad_of_vmap() -> None:
    inputs = operands(SIZE)

    def total(call: Any) -> Any:
        return lambda *inputs: vmap(loss(call))(*inputs).sum()

    found = grad(total(everything), argnums=tuple(range(5)))(*inputs)
    expected = grad(total(plain_everything), argnums=tuple(range(5)))(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    leaves = [x.requires_grad_() for x in inputs]
    again = torch.autograd.grad(total(everything)(*leaves), leaves)
    torch.testing.assert_close(again, found)


def test_gradients_of_a_batch_of_gradients() -> None:
    q, k, v = (torch.randn(1, 2, 5, 8, requires_grad=True) for _ in range(3))
    out = sdpa(q, k, v)
    many = torch.randn(SIZE, *out.shape)
    found = torch.autograd.grad(out, (q, k, v), many, is_grads_batched=True, retain_graph=True)
    for index in range(SIZE):
        expected = torch.autograd.grad(out, (q, k, v), many[index], retain_graph=True)
        torch.testing.assert_close([x[index] for x in found], list(expected))


def forward_derivatives() -> dict[str, Any]:
    def dual(x: Any, call: Any) -> Any:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x))))

    return {
        "jvp": lambda x, call: jvp(call, (x,), (x,)),
        "jacfwd": lambda x, call: jacfwd(call)(x),
        "linearize": lambda x, call: linearize(call, x)[1](x),
        "hessian": lambda x, call: hessian(lambda x: call(x).sum())(x),
        "forward_ad": dual,
        "no_grad": lambda x, call: torch.no_grad()(dual)(x, call),
        "jvp of grad": lambda x, call: jvp(grad(lambda x: call(x).sum()), (x,), (x,)),
        "grad of jvp": lambda x, call: grad(lambda x: jvp(call, (x,), (x,))[1].sum())(x),
        "jvp of vmap": lambda x, call: jvp(vmap(call), (x[None],), (x[None],)),
        "vmap of jvp": lambda x, call: vmap(lambda x: jvp(call, (x,), (x,))[1])(x[None]),
    }


@pytest.mark.parametrize("way", forward_derivatives())
@pytest.mark.parametrize("argument", ["query", "key", "value", "mask", "sinks", "grad_out"])
def test_forward_mode_is_refused(way: str, argument: str) -> None:
    y = torch.randn(1, 2, 5, 8)
    calls: dict[str, Any] = {
        "query": lambda x: sdpa(x, y, y),
        "key": lambda x: sdpa(y, x, y, is_causal=True),
        "value": lambda x: umfa.SDPA()(y, y, x),
        "mask": lambda x: attention(y, y, y, attn_mask=x[..., :5]),
        "sinks": lambda x: attention(y, y, y, sinks=x[0, :, 0, 0], return_logsumexp=True)[1],
        "grad_out": lambda x: vjp(lambda z: sdpa(z, y, y), y)[1](x)[0],
    }
    with pytest.raises(NotImplementedError, match=r"forward-mode derivative|double backward"):
        forward_derivatives()[way](torch.randn(1, 2, 5, 8), calls[argument])


@pytest.mark.parametrize("argument", range(5))
def test_double_backward_is_refused(argument: int) -> None:
    inputs = operands()

    def gradient(*inputs: Any) -> Any:
        return sum(x.sum() for x in grad(loss(everything), argnums=(0, 2, 3, 4))(*inputs))

    with pytest.raises(NotImplementedError, match="double backward"):
        grad(gradient, argnums=argument)(*inputs)
    with pytest.raises(NotImplementedError, match="double backward"):
        vmap(grad(gradient, argnums=argument))(*operands(2))
    leaves = [x.requires_grad_() for x in inputs]
    (first,) = torch.autograd.grad(loss(everything)(*leaves), leaves[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        torch.autograd.grad(first.sum(), leaves[argument])


def test_no_grad_inside_a_transform() -> None:
    def call(x: Any) -> Any:
        with torch.no_grad():
            still = sdpa(x, x, x)
        return (sdpa(x, x, x) * still).sum()

    x = torch.randn(1, 2, 5, 8)
    still = sdpa(x, x, x)
    expected = grad(lambda x: (sdpa(x, x, x) * still).sum())(x)
    torch.testing.assert_close(grad(call)(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(grad(call)(x), expected)
