"""Options, dtypes, layouts and sizes at the doors of umfa.torch."""

from __future__ import annotations

import gc
import itertools
import math
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402
import torch_plain  # noqa: E402

import umfa  # noqa: E402
import umfa.torch  # noqa: E402

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]

sdpa: Any = umfa.torch.scaled_dot_product_attention
attention: Any = umfa.torch.attention
DOORS: dict[str, Any] = {"sdpa": sdpa, "attention": attention, "SDPA": umfa.SDPA()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# Names and values of options.


def test_the_names_of_umfa_attention_are_applied() -> None:
    q, k = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8)
    expected = F.scaled_dot_product_attention(q, k, k, is_causal=True, scale=3.0)
    for call in (sdpa, umfa.SDPA(causal=True, softmax_scale=3.0)):
        options: Any = {} if call is not sdpa else {"causal": True, "softmax_scale": 3.0}
        close(call(q, k, k, **options), expected)
    with pytest.raises(umfa.InvalidArgument, match="is_causal: given together with causal"):
        sdpa(q, k, k, is_causal=True, causal=True)
    with pytest.raises(umfa.InvalidArgument, match="scale: given together with softmax_scale"):
        sdpa(q, k, k, scale=1.0, softmax_scale=2.0)
    with pytest.raises(umfa.InvalidArgument, match="attn_mask: given together with is_causal"):
        sdpa(q, k, k, torch.ones(5, 7, dtype=torch.bool), causal=True)


@pytest.mark.parametrize("rows", [5, 0])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": (-5, 0)}, umfa.InvalidArgument, "window: -5"),
        ({"window": -2}, umfa.InvalidArgument, "window: -2"),
        ({"window": (1, 2, 3)}, umfa.InvalidType, r"window: \(1, 2, 3\), expected an int or"),
        ({"window": 1.5}, umfa.InvalidType, "window: 1.5, expected an int"),
        ({"window": (True, 0)}, umfa.InvalidType, "window: True, expected an int"),
        ({"window": "all"}, umfa.InvalidType, "window: 'all'"),
        ({"window": 10**30}, umfa.InvalidArgument, "window: 1000"),
        ({"softcap": "x"}, umfa.InvalidType, "softcap: 'x', expected a number"),
        ({"softcap": math.nan}, umfa.InvalidArgument, "softcap"),
        ({"softcap": 1e-50}, umfa.InvalidArgument, "softcap"),
        (
            {"granularity": "row"},
            umfa.InvalidArgument,
            "granularity: given, but nothing is quantized",
        ),
        ({"rotate": True}, umfa.InvalidArgument, "rotate: given, but nothing is quantized"),
        ({"softcap": -1.0}, umfa.InvalidArgument, "softcap"),
        ({"alignment": 3}, umfa.InvalidType, "alignment: 3"),
        ({"alignment": "middle"}, umfa.InvalidArgument, 'alignment: "middle"'),
        ({"layout": "NHD"}, umfa.InvalidArgument, 'layout: "NHD", expected'),
        ({"compute": "slow"}, umfa.InvalidArgument, 'compute: "slow"'),
        ({"clip": 1}, umfa.InvalidType, "clip: 1, expected True or False"),
        ({"causal": "yes"}, umfa.InvalidType, "causal: 'yes', expected True or False"),
        ({"return_logsumexp": None}, umfa.InvalidType, "return_logsumexp: None"),
        ({"out": torch.zeros(1, 2, 5, 64)}, umfa.InvalidArgument, "out: not supported"),
        ({"precision": "int5"}, umfa.InvalidArgument, 'precision: "int5"'),
        ({"precision": {"k": object()}}, umfa.InvalidType, r"precision\['k'\]: <object"),
        ({"granulation": "row"}, TypeError, "keyword argument 'granulation'"),
        ({"context": "cpu"}, umfa.InvalidType, "context: str, expected an umfa.MFAContext"),
    ],
)
def test_what_is_refused(options: Any, error: Any, message: str, rows: int) -> None:
    q = torch.randn(1, 2, rows, 64)
    for door in (sdpa, attention):
        with pytest.raises(error, match=message):
            door(q, q, q, **options)


@pytest.mark.parametrize(
    "window", [3, np.int64(3), [3, 3], (np.int32(3), torch.tensor(3)), (3, np.int8(3))]
)
def test_windows(window: Any) -> None:
    q = torch.randn(1, 2, 12, 8)
    expected = torch_plain.attention(q, q, q, window=(3, 3))[0]
    close(sdpa(q, q, q, window=window), expected)
    close(sdpa(q, q, q, window=(None, -1)), sdpa(q, q, q))
    close(sdpa(q, q, q, window=[2, None], is_causal=True), sdpa(q, q, q, window=(2, 0)))


def test_options_of_quantization() -> None:
    q = torch.randn(1, 2, 9, 64)
    options: dict[str, Any] = {"precision": {"k": "int8"}, "granularity": "row"}
    expected = sdpa(q, q, q, scale_dtype="float16", group=None, **options)
    options["precision"] = {"k": torch.int8}
    close(sdpa(q, q, q, scale_dtype=torch.float16, **options), expected, 0)
    blocks = {"precision": "int8", "granularity": "block"}
    close(sdpa(q, q, q, block_rows=np.int64(4), **blocks), sdpa(q, q, q, block_rows=4, **blocks), 0)


@pytest.mark.parametrize("door", DOORS)
def test_what_belongs_to_another_library(door: str) -> None:
    call = DOORS[door]
    q = torch.randn(2, 3, 5, 8)
    mask = np.random.default_rng(1).random((5, 5)) > 0.4
    close(call(q, q, q, attn_mask=mask), call(q, q, q, attn_mask=torch.as_tensor(mask)), 0)
    added = np.where(mask, 0.5, -np.inf).astype(np.float32)
    close(call(q, q, q, attn_mask=added), call(q, q, q, attn_mask=torch.as_tensor(added)), 0)
    with pytest.raises(umfa.InvalidType, match=r"attn_mask: str, expected a torch\.Tensor"):
        call(q, q, q, attn_mask="causal")
    with pytest.raises(umfa.InvalidType, match=r"attn_mask: dtype torch\.uint8"):
        call(q, q, q, attn_mask=torch.ones(5, 5, dtype=torch.uint8))
    with pytest.raises(umfa.InvalidType, match=r"(k|key): ndarray, expected a torch\.Tensor"):
        call(q, q.numpy(), q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, "list"])
def test_one_number_for_each_head(dtype: Any) -> None:
    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    numbers = [0.5, 0.25]
    given: Any = (
        numbers if dtype == "list" else torch.tensor(numbers, dtype=dtype, requires_grad=True)
    )
    slopes = given if dtype == "list" else given.detach()
    out = attention(q, q, q, sinks=given, alibi_slopes=slopes)
    sinks = torch.tensor(numbers, requires_grad=True)
    expected = torch_plain.attention(q, q, q, sinks=sinks, alibi_slopes=torch.tensor(numbers))[0]
    close(out, expected)
    if dtype != "list":
        out.square().sum().backward()
        assert given.grad.dtype == dtype
        (want,) = torch.autograd.grad(expected.square().sum(), sinks)
        close(given.grad.float(), want, 5e-3)


def test_the_gradient_of_slopes_is_refused() -> None:
    q = torch.randn(1, 2, 5, 8)
    slopes = torch.ones(2, requires_grad=True)
    with pytest.raises(umfa.Unsupported, match="alibi_slopes: requires gradients"):
        sdpa(q, q, q, alibi_slopes=slopes).sum().backward()


def test_other_devices_are_refused() -> None:
    q = torch.empty(1, 2, 5, 8, device="meta")
    assert sdpa(q, q, q).shape == q.shape
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(1, 2, 5, 8)
        with pytest.raises(umfa.Unsupported, match="key: a tensor on device cuda:0, expected cpu"):
            sdpa(q, torch.empty(1, 2, 5, 8, device="cuda"), q)


# Autocast and dtypes.

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_casts_before_it_compares(dtype: Any, door: str) -> None:
    call = DOORS[door]
    for dtypes in itertools.product(FLOATS, repeat=3):
        q, k, v = (torch.randn(1, 2, 6, 8).to(mine).requires_grad_() for mine in dtypes)
        with torch.autocast("cpu", dtype=dtype):
            out = call(q, k, v)
            assert out.dtype == F.scaled_dot_product_attention(q, k, v).dtype == dtype
        close(out, call(*(x.to(dtype) for x in (q, k, v))), 0)
        out.float().sum().backward()
        for x, mine in zip((q, k, v), dtypes):
            assert x.grad.dtype == mine


def test_mixed_dtypes_without_autocast() -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    for door in ("sdpa", "SDPA"):  # as PyTorch's
        with pytest.raises(umfa.InvalidType, match="dtypes float32, float32 and float16"):
            DOORS[door](q, k, v.half())
    out = attention(q, k.bfloat16(), v.half())
    assert out.dtype == q.dtype
    close(out, attention(q, k.bfloat16().float(), v.half().float()))


def test_masks_under_autocast_keep_their_numbers() -> None:
    q = torch.randn(1, 2, 4, 8)
    mask = torch.zeros(4, 4)
    mask[:, 2:] = -70000.0  # -inf in float16
    mask[3] = -70000.0
    with torch.autocast("cpu", dtype=torch.float16):
        out = sdpa(q, q, q, mask)
    close(out[..., 3, :].float(), sdpa(q, q, q, mask)[..., 3, :], 2e-3)
    assert (out[..., 3, :] != 0).all()


# Layouts.


def swapped(x: Any) -> Any:
    return x.transpose(-3, -2).detach().contiguous().requires_grad_(x.requires_grad)


RANKS = [(door, rank) for door in DOORS for rank in (2, 3, 4)]
RANKS += [("sdpa", 5), ("SDPA", 5)]


@pytest.mark.parametrize("mask", [None, (7, 9), (2, 1, 1, 9), (6, 7, 1)])
@pytest.mark.parametrize(("door", "rank"), [pair for pair in RANKS if pair[0] != "SDPA"])
def test_rows_before_heads(door: str, rank: int, mask: Any) -> None:
    """BNHD is BHND with two axes swapped: results, logsumexps, gradients."""
    shapes = [(3, 2, 6, 7, 8), (3, 2, 2, 9, 8), (3, 2, 2, 9, 5)]
    q, k, v = (torch.randn(shape[5 - rank :], requires_grad=True) for shape in shapes)
    added = None
    if mask is not None:
        wanted = (2, 6, 7, 9)[max(0, 4 - rank) :] if rank < 4 else (2, 6, 7, 9)
        mask = mask[-min(len(mask), len(wanted)) :]
        added = torch.randn(mask, requires_grad=True)
    options: dict[str, Any] = {"window": (4, 3), "return_logsumexp": True}
    call = DOORS[door]
    if door == "sdpa":
        options["enable_gqa"] = True
        out, lse = call(q, k, v, added, **options)
    else:
        # Without a batch axis, rank 3 is heads and rows in BNHD alone.
        options |= {"attn_mask": added, "alignment": "bottom_right"}
        given = (x[None] for x in (q, k, v)) if rank == 3 else (q, k, v)
        out, lse = call(*given, **options)
        out, lse = (x[0] for x in (out, lse)) if rank == 3 else (out, lse)
    inputs = [q, k, v] + ([added] if added is not None else [])
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    expected = torch.autograd.grad((out, lse), inputs, (grad_out, grad_lse))

    turn = swapped if rank > 2 else lambda x: x
    others = [turn(x) for x in (q, k, v)]
    more = () if door == "attention" else (added,)
    found, lse2 = call(*others, *more, layout="BNHD", **options)
    close(turn(found.detach()), out)
    close(lse2, lse)
    if rank == 4:
        assert found.is_contiguous()
    leaves = others + inputs[3:]
    gradients = torch.autograd.grad((found, lse2), leaves, (turn(grad_out), grad_lse))
    for index, (a, b) in enumerate(zip(gradients, expected)):
        close(turn(a) if index < 3 else a, b)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
def test_packed_sequences(layout: str, rank: int) -> None:
    heads_first = [torch.randn(2, 4, 9, 8), torch.randn(2, 2, 12, 8), torch.randn(2, 2, 12, 6)]
    q, k, v = (x[0] for x in heads_first)
    ends_q, ends_k = [0, 4, 4, 9], np.array([0, 5, 7, 12])
    pieces = [
        torch_plain.attention(q[None, :, a:b], k[None, :, c:d], v[None, :, c:d], causal=True)
        for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:])
    ]
    out, lse = (torch.cat([piece[at][0] for piece in pieces], 1) for at in range(2))
    given = [x.transpose(0, 1) if layout == "BNHD" else x for x in (q, k, v)]
    given = [(x if rank == 3 else x[None]).detach().requires_grad_() for x in given]
    options: dict[str, Any] = {"cu_seqlens_q": ends_q, "cu_seqlens_k": ends_k, "layout": layout}
    results = [
        attention(*given, causal=True, alignment="top_left", return_logsumexp=True, **options),
        sdpa(*given, is_causal=True, enable_gqa=True, return_logsumexp=True, **options),
    ]
    for found, found_lse in results:
        found, found_lse = (x if rank == 3 else x[0] for x in (found, found_lse))
        close(found.transpose(0, 1) if layout == "BNHD" else found, out)
        close(found_lse, lse)
        found.sum().backward()
        assert all(x.grad is not None and x.grad.shape == x.shape for x in given)


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
def test_masks_of_packed_sequences(layout: str) -> None:
    """[sequences, heads, longest query, longest key], at both doors."""
    x = torch.randn(3, 7, 8)
    ends = torch.tensor([0, 5, 7], dtype=torch.int32)
    mask = torch.randn(2, 1, 5, 5, requires_grad=True)
    pieces = [
        torch_plain.attention(*(x[None, :, a:b],) * 3, mask[n, :, : b - a, : b - a])[0][0]
        for n, (a, b) in enumerate(((0, 5), (5, 7)))
    ]
    expected = torch.cat(pieces, 1)
    given = x if layout == "BHND" else x.transpose(0, 1)
    options: dict[str, Any] = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "layout": layout}
    for door in (sdpa, attention):
        for y in (given, given[None]):
            out = door(y, y, y, attn_mask=mask, **options).reshape(given.shape)
            close(out if layout == "BHND" else out.transpose(0, 1), expected)
            (found,) = torch.autograd.grad(out.sum(), mask)
            (want,) = torch.autograd.grad(expected.sum(), mask, retain_graph=True)
            close(found, want)


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("door", DOORS)
def test_key_lengths(door: str, rank: int, kind: Any) -> None:
    """As if the keys after them were not stored; their gradients are 0."""
    q, k, v = (torch.randn((2, 3, 6, 8)[4 - rank :], requires_grad=True) for _ in range(3))
    # Rank 3 is [batch, rows, columns] or [heads, rows, columns].
    used = [4, 0] if rank == 4 or (rank == 3 and door == "attention") else [4]
    if rank == 3 and door == "attention":
        q, k, v = (x[:2].detach().requires_grad_() for x in (q, k, v))
    options: dict[str, Any] = {"seqlens_k": kind(used)}
    call = umfa.SDPA(**options) if door == "SDPA" else partial(DOORS[door], **options)
    out = call(q, k, v)
    batched = [x if len(used) == 2 else x[None] for x in (out, q, k, v)]
    for index, count in enumerate(used):
        a, b, c = (x[index].reshape(-1, 6, 8)[None] for x in batched[1:])
        want = torch_plain.attention(a, b[:, :, :count], c[:, :, :count])[0]
        close(batched[0][index].reshape(want.shape), want)
    out.square().sum().backward()
    for x in (k, v):
        gradient = x.grad if len(used) == 2 else x.grad[None]
        for index, count in enumerate(used):
            rows = gradient[index].reshape(-1, 6, 8)
            assert (rows[:, count:] == 0).all()
            assert (rows[:, :count] != 0).any() == bool(count)


def test_key_lengths_and_more_dimensions() -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    with pytest.raises(umfa.InvalidDimensions, match=r"query: .* expected rank 4 or less"):
        sdpa(x, x, x, seqlens_k=[1, 2])


def test_shapes_that_disagree_in_the_callers_words() -> None:
    x = torch.randn(2, 3, 5, 8)
    with pytest.raises(umfa.InvalidDimensions, match=r"key: shape .*, expected 8 columns as in q"):
        sdpa(x, x[..., :7], x)
    with pytest.raises(umfa.InvalidDimensions, match=r"value: 4 rows, expected 5 as in key"):
        sdpa(x, x, x[:, :, :4])
    y = torch.randn(2, 5, 2, 8)
    with pytest.raises(umfa.InvalidDimensions, match=r'did you mean layout="BNHD"\?'):
        sdpa(torch.randn(2, 5, 4, 8), y[:, :3], y[:, :3], enable_gqa=True)


def test_ranks_of_attention() -> None:
    """As in umfa.attention, whose rank 3 is [batch, rows, columns] where nothing is packed."""
    for layout in ("BHND", "BNHD"):
        for shape in ((4, 8), (2, 4, 8), (2, 3, 4, 8)):
            x = torch.randn(shape)
            mask = torch.randn((2, 4, 4) if len(shape) == 3 and layout == "BHND" else (1, 1))
            options: dict[str, Any] = {"layout": layout, "return_logsumexp": True}
            found = attention(x, x, x, attn_mask=mask, **options)
            expected = umfa.attention(x, x, x, attn_mask=mask, **options)
            close(found, expected, 0)
    x = torch.randn(2, 3, 4, 8)
    with pytest.raises(umfa.InvalidDimensions, match=r"k: shape \(3, 4, 8\), expected rank 4"):
        attention(x, x[0], x)
    with pytest.raises(umfa.InvalidDimensions, match=r"q: shape .*, expected rank 2, 3 or 4"):
        attention(x[None], x, x)


# Sizes.


NAMES = ("outer", "batch", "heads", "rows", "keys", "columns", "value columns")


@pytest.mark.parametrize(
    ("door", "rank", "nothing"),
    [(*pair, name) for pair in RANKS for name in NAMES[5 - pair[1] :]],
)
def test_nothing_of_something(door: str, nothing: str, rank: int) -> None:
    """A size of 0 anywhere gives PyTorch's shape, in the graph, with gradients of 0."""
    size = {
        "outer": 3, "batch": 2, "heads": 4, "rows": 5, "keys": 6, "columns": 8, "value columns": 7,
    }  # fmt: skip
    size[nothing] = 0
    front = (size["outer"], size["batch"], size["heads"])[5 - rank :]
    q = torch.randn(*front, size["rows"], size["columns"], requires_grad=True)
    k = torch.randn(*front, size["keys"], size["columns"], requires_grad=True)
    v = torch.randn(*front, size["keys"], size["value columns"], requires_grad=True)
    mask = torch.randn(size["rows"], size["keys"], requires_grad=True)
    call = DOORS[door]
    out = call(q, k, v, attn_mask=mask)
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    assert out.shape == expected.shape
    assert out.requires_grad
    if out.numel() and nothing != "keys":
        close(out, expected)
    found = torch.autograd.grad(out, (q, k, v, mask), torch.ones_like(out))
    for x, gradient in zip((q, k, v, mask), found):
        assert gradient.shape == x.shape
        assert gradient.isfinite().all()
        if nothing != "columns":
            assert (gradient == 0).all()
    if nothing == "columns":
        want = torch.autograd.grad(expected, (v, mask), torch.ones_like(out))
        close(found[2:], want)


def test_no_keys_but_sinks() -> None:
    q = torch.randn(1, 2, 3, 8)
    k = torch.randn(1, 2, 0, 8)
    sinks = torch.tensor([0.5, -1.0], requires_grad=True)
    out, lse = attention(q, k, k, sinks=sinks, return_logsumexp=True)
    assert (out == 0).all()
    close(lse, sinks[None, :, None].expand(1, 2, 3))
    lse.sum().backward()
    close(sinks.grad, torch.full((2,), 3.0))


@pytest.mark.parametrize("batch", [(0, 1), (1, 0), (0, 0), (2, 0)])
def test_broadcasting_to_nothing(batch: tuple[int, int]) -> None:
    q = torch.randn(*batch, 2, 3, 8, requires_grad=True)
    k = torch.randn(1, 1, 3, 8, requires_grad=True)
    out = sdpa(q, k, k)
    assert out.shape == F.scaled_dot_product_attention(q, k, k).shape
    out.sum().backward()
    assert (k.grad == 0).all()


def test_one_scale_whatever_the_strides() -> None:
    """More batch dimensions than one, which strides do not always let be one."""
    q, k, v = (torch.randn(2, 3, 4, 5, 32) for _ in range(3))
    k = k * torch.tensor([1.0, 30.0]).view(2, 1, 1, 1, 1)
    expected = sdpa(q, k, v, precision="int8")
    shuffled = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v))
    close(sdpa(*shuffled, precision="int8"), expected, 0)


# Contexts and registration.


def test_a_context_lives_as_long_as_the_graph() -> None:
    q = torch.randn(1, 2, 8, 8, requires_grad=True)
    out = sdpa(q, q, q, context=umfa.MFAContext(num_threads=1))
    gc.collect()
    out.sum().backward()
    expected = q.grad
    q.grad = None
    gradient = torch.func.grad(
        lambda x: sdpa(x, x, x, context=umfa.MFAContext(num_threads=1)).sum()
    )
    close(gradient(q.detach()), expected)


def test_contexts_are_let_go() -> None:
    from umfa.torch import _context

    gc.collect()
    before = len(_context._CONTEXTS)
    q = torch.randn(1, 2, 8, 8, requires_grad=True)
    out = sdpa(q, q, q, context=umfa.MFAContext(num_threads=1))
    assert len(_context._CONTEXTS) == before + 1
    out.sum().backward()
    del out
    gc.collect()
    assert len(_context._CONTEXTS) == before


def test_a_closed_context_is_refused() -> None:
    context = umfa.MFAContext()
    q = torch.randn(1, 2, 8, 8, requires_grad=True)
    out = sdpa(q, q, q, context=context)
    context.close()
    with pytest.raises(umfa.InvalidContext):
        out.sum().backward()


def test_operators_are_registered_by_import() -> None:
    code = (
        "import sys, torch, umfa.torch; "
        "torch.ops.umfa.attention.default; torch.ops.umfa.attention_backward.default"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
