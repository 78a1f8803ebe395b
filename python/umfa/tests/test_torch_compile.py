"""torch.compile, torch.export and PyTorch's own checks of operators."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# torch.compile imports setuptools, which asserts that nobody imported the standard distutils.
if sys.version_info < (3, 12):
    os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import umfa  # noqa: E402
import umfa.torch  # noqa: E402
from umfa.torch import _ops, _options  # noqa: E402

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

sdpa: Any = umfa.torch.scaled_dot_product_attention
attention: Any = umfa.torch.attention
CAUSAL: dict[str, Any] = {"causal": True, "alignment": "top_left"}
KV8: dict[str, Any] = {"precision": {"k": "int8", "v": "int8"}, "granularity": "row"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(9)
    torch._dynamo.reset()


def leaf(*shape: int, dtype: Any = None) -> Any:
    return torch.randn(*shape, dtype=dtype or torch.float32).requires_grad_()


def sample(**given: Any) -> tuple[Any, ...]:
    """The arguments of `umfa::attention`."""
    tensors = [given.pop(name, None) for name in ("q", "k", "v", *_options.TENSORS)]
    return (*tensors, *_options.plain("attention", given, 0))


def samples() -> dict[str, tuple[Any, ...]]:
    q, k, v = leaf(2, 4, 9, 8), leaf(2, 2, 11, 8), leaf(2, 2, 11, 6)
    ends = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    one = leaf(1, 4, 9, 8)
    rows_first = q.transpose(1, 2).contiguous().transpose(1, 2)
    return {
        "plain": sample(q=q, k=k, v=v),
        "mask and sinks": sample(q=q, k=k, v=v, attn_mask=leaf(4, 1, 11), sinks=leaf(4)),
        "slopes": sample(q=q, k=k, v=v, alibi_slopes=torch.rand(4), **CAUSAL),
        "quantized": sample(q=q, k=k, v=v, **KV8, clip=True),
        "rows first": sample(q=rows_first, k=k, v=v, layout="BNHD"),
        "packed": sample(q=one, k=one, v=one, cu_seqlens_q=ends, cu_seqlens_k=ends, window=(2, 0)),
        "key lengths": sample(q=q, k=k, v=v, seqlens_k=torch.tensor([11, 4]), **CAUSAL),
        "half": sample(q=q.detach().half().requires_grad_(), k=k.half(), v=v.half()),
        "double": sample(q=q.detach().double().requires_grad_(), k=k.double(), v=v.double()),
        "no batch": sample(q=q[:0], k=k[:0], v=v[:0]),
        "no rows": sample(q=q[:, :, :0], k=k, v=v),
        "no keys": sample(q=q, k=k[:, :, :0], v=v[:, :, :0]),
        "no columns": sample(q=q[..., :0], k=k[..., :0], v=v),
    }  # fmt: skip


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(_ops.attention_op, samples()[name])


@pytest.mark.parametrize("name", samples())
def test_opcheck_of_backward(name: str) -> None:
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in samples()[name]]
    out, lse = _ops.attention_op(*arguments)
    mask, sinks = arguments[3], arguments[5]
    for need, grad_lse in (([True] * 3, torch.randn_like(lse)), ([False, True, False], None)):
        needs = [*need, mask is not None, sinks is not None]
        given = (torch.randn_like(out), grad_lse, *arguments[:3], out, lse, *arguments[3:])
        torch.library.opcheck(_ops.attention_backward_op, (*given, needs))


def doubles(*shapes: tuple[int, ...]) -> list[Any]:
    return [leaf(*shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "alignment": "bottom_right"},
        {"window": (2, 1), "alignment": "top_left", "softcap": 2.0},
        {"seqlens_k": [6, 3], "softmax_scale": 0.7},
        {"layout": "BNHD"},
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_gradcheck(options: dict[str, Any], more: bool) -> None:
    """Finite differences of both results, in float64 throughout."""
    inputs = doubles((2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 2))
    if options.get("layout") == "BNHD":
        inputs = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in inputs]
    if more:
        inputs += doubles((4, 5, 6), (4,))
    options = {**options, "alibi_slopes": [0.5, 0.25, 0.125, 0.0], "return_logsumexp": True}
    if "alignment" not in options:
        options["alignment"] = "top_left"

    def call(q: Any, k: Any, v: Any, mask: Any = None, sinks: Any = None) -> Any:
        return attention(q, k, v, attn_mask=mask, sinks=sinks, **options)

    out, lse = call(*inputs)
    assert out.dtype == lse.dtype == torch.float64
    assert torch.autograd.gradcheck(call, inputs)
    with pytest.raises(NotImplementedError, match="double backward"):
        torch.autograd.gradgradcheck(call, inputs)


def test_gradcheck_in_float32() -> None:
    """Finite differences of both results: float32, so steps and tolerances are wide."""
    inputs = [leaf(1, 2, 4, 4) for _ in range(3)] + [leaf(4, 4), leaf(2)]

    def call(q: Any, k: Any, v: Any, mask: Any, sinks: Any) -> Any:
        out, lse = attention(q, k, v, attn_mask=mask, sinks=sinks, return_logsumexp=True)
        return out.double(), lse.double()

    assert torch.autograd.gradcheck(call, inputs, eps=1e-2, atol=2e-3, rtol=2e-3)


def cases() -> dict[str, tuple[Any, list[Any]]]:
    q, k, v = leaf(2, 4, 9, 8), leaf(2, 2, 11, 8), leaf(2, 2, 11, 6)
    rows_first = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
    ends = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    packed = [leaf(9, 2, 8) for _ in range(3)]

    def two_parts(q: Any, k: Any, v: Any) -> Any:
        parts = [
            attention(q, k[:, :, a:b], v[:, :, a:b], return_logsumexp=True)
            for a, b in ((0, 5), (5, 11))
        ]
        return umfa.torch.merge(*zip(*parts))

    def autocast(q: Any, k: Any, v: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sdpa(q, k.half(), v, enable_gqa=True).float()

    return {
        "quantized": (lambda *x: sdpa(*x, is_causal=True, enable_gqa=True, **KV8), [q, k, v]),
        "logsumexp": (
            lambda *x: attention(*x, window=(3, 4), alignment="top_left", return_logsumexp=True),
            [q, k, v],
        ),
        "merge": (two_parts, [q, k, v]),
        "mask": (
            lambda q, k, v, m: sdpa(q * 2, k, v, m, enable_gqa=True, softcap=4.0) + 1,
            [q, k, v, leaf(9, 11)],
        ),
        "rows first": (
            lambda q, k, v, s: attention(q, k, v, layout="BNHD", sinks=s, return_logsumexp=True),
            [*rows_first, leaf(4)],
        ),
        "packed": (
            lambda *x: attention(
                *x, layout="BNHD", causal=True, cu_seqlens_q=ends, cu_seqlens_k=ends
            ),
            packed,
        ),
        "key lengths": (
            lambda q, k, v, n: sdpa(q, k, v, enable_gqa=True, seqlens_k=n, window=(2, 1)),
            [q, k, v, torch.tensor([3, 11], dtype=torch.int32)],
        ),
        "five dimensions": (
            lambda q, k, v: sdpa(q[None].expand(3, 2, 4, 9, 8), k, v, enable_gqa=True),
            [q, k, v],
        ),
        "autocast": (autocast, [q, k, v]),
        "nothing": (lambda *x: sdpa(*x, enable_gqa=True), [leaf(0, 4, 9, 8), k[:0], v[:0]]),
    }


BACKENDS = [(name, "aot_eager") for name in cases()] + [  # compiling C++ takes seconds
    (name, "inductor") for name in ("merge", "rows first")
]


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_compile_without_graph_breaks(name: str, backend: str) -> None:
    call, inputs = cases()[name]
    found = torch.compile(call, fullgraph=True, backend=backend)(*inputs)
    expected = call(*inputs)
    torch.testing.assert_close(found, expected)
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    inputs = [x for x in inputs if x.requires_grad]
    grads = [torch.randn_like(x) for x in expected]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, grads), torch.autograd.grad(expected, inputs, grads)
    )


def test_sizes_that_change() -> None:
    compiled = torch.compile(
        lambda q, k, left: sdpa(q, k, k, window=(left, k.shape[2])), fullgraph=True,
        backend="aot_eager", dynamic=True,
    )  # fmt: skip
    for rows, keys, left in ((5, 7, 1), (6, 9, 2), (13, 8, 3), (14, 33, 40)):
        q, k = leaf(2, 3, rows, 8), leaf(2, 3, keys, 8)
        found, expected = compiled(q, k, left), sdpa(q, k, k, window=(left, keys))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), (q, k)), torch.autograd.grad(expected.sum(), (q, k))
        )


def transforms() -> dict[str, Any]:
    from torch.func import grad, jacrev, vjp, vmap

    def loss(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q, k, v, enable_gqa=True).square().sum()

    every = (0, 1, 2)
    return {
        "grad": lambda *x: grad(loss, argnums=every)(*x),
        "vmap(grad)": lambda q, k, v: vmap(grad(loss, argnums=every), in_dims=(3, None, 0))(
            torch.stack([q, 2 * q], 3), k, torch.stack([v, v + 1])
        ),
        "grad(vmap)": lambda *x: grad(
            lambda *y: vmap(loss, in_dims=1)(*(z[None] for z in y)).sum(), argnums=every
        )(*x),
        "jacrev": lambda *x: jacrev(lambda q: sdpa(q, x[1][:1], x[2][:1], enable_gqa=True))(
            x[0][:1, :, :2]
        ),
        "vjp": lambda *x: vjp(loss, *x)[1](torch.ones(())),
    }  # fmt: skip


@pytest.mark.parametrize("name", transforms())
def test_transforms_compile(name: str) -> None:
    call = transforms()[name]
    inputs = [torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 7)]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), call(*inputs))


def test_what_has_no_derivative_does_not_compile() -> None:
    from torch.func import jvp

    x = torch.randn(1, 2, 5, 8)

    def tangent(x: Any) -> Any:
        return jvp(lambda y: sdpa(y, y, y), (x,), (x,))[1]

    with pytest.raises(Exception, match="no forward-mode derivative"):
        torch.compile(tangent, fullgraph=True, backend="aot_eager")(x)
    compiled = torch.compile(lambda x: sdpa(x, x, x).sum(), fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    (first,) = torch.autograd.grad(compiled(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (-5, 0)}, "window: -5"),
        ({"window": (1, 2, 3)}, "window: .*expected an int or"),
        ({"granularity": "row"}, "granularity"),
        ({"granulation": "row"}, "granulation"),
        ({"softcap": 1e-50}, "softcap"),
        ({"layout": "NHD"}, "layout"),
        ({"causal": True, "is_causal": True}, "is_causal: given together with causal"),
        ({"causal": "yes"}, "causal"),
    ],
)
@pytest.mark.parametrize("rows", [5, 0])
def test_what_is_refused_in_a_graph(options: Any, message: str, rows: int) -> None:
    x = torch.randn(1, 2, rows, 8)
    compiled = torch.compile(lambda x: sdpa(x, x, x, **options), backend="aot_eager")
    with pytest.raises(Exception, match=message):
        compiled(x)


def test_a_context_in_a_compiled_graph() -> None:
    def call(q: Any, context: Any) -> Any:
        return sdpa(q, q, q, context=context)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    q = leaf(1, 2, 5, 8)
    for threads in (1, 2):
        context = umfa.MFAContext(num_threads=threads)
        found = compiled(q, context)
        assert context.latency > 0
        del context
        found.sum().backward()
    torch.testing.assert_close(found, call(q, None))
    context = umfa.MFAContext()
    compiled(q, context)
    context.close()
    with pytest.raises(umfa.InvalidContext):
        compiled(q, context)


class Module(torch.nn.Module):  # type: ignore[name-defined,misc,unused-ignore]
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Any, k: Any) -> Any:
        out, lse = sdpa(q, k, k, enable_gqa=True, return_logsumexp=True, **self.options)
        return out + 1, lse


def test_an_exported_program_loads_in_a_new_process(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 4, 9, 8), torch.randn(1, 2, 7, 8))
    module = Module(is_causal=True, **KV8)
    torch.export.save(torch.export.export(module, inputs), tmp_path / "program.pt2")
    torch.save({"inputs": inputs, "expected": module(*inputs)}, tmp_path / "data.pt")
    code = (
        "import sys, torch, umfa.torch\n"
        "data = torch.load(sys.argv[2])\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "found = program(*data['inputs'])\n"
        "assert all(torch.equal(a, b) for a, b in zip(found, data['expected']))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    files = [str(tmp_path / name) for name in ("program.pt2", "data.pt")]
    subprocess.run([*command, *files], check=True)


def test_an_exported_program_trains() -> None:
    inputs = (leaf(1, 4, 9, 8), leaf(1, 2, 7, 8))
    module = Module()
    program = torch.export.export(module, inputs).module()
    found = torch.autograd.grad(program(*inputs)[1].sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(module(*inputs)[1].sum(), inputs))


def test_a_context_is_not_exported() -> None:
    inputs = (torch.randn(1, 4, 9, 8), torch.randn(1, 2, 7, 8))
    with pytest.raises(Exception, match="an exported program is run in other processes"):
        torch.export.export(Module(context=umfa.MFAContext()), inputs)
