"""MetalSDPA: torch's scaled_dot_product_attention, on NumPy arrays and on tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]

sdpa = umfa.SDPA()

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "rank 4": ((2, 3, 7, 16), (2, 3, 9, 16), (2, 3, 9, 12)),
    "rank 3": ((3, 7, 16), (3, 9, 16), (3, 9, 12)),
    "rank 2": ((7, 16), (9, 16), (9, 12)),
    "rank 5": ((2, 2, 3, 7, 16), (2, 2, 3, 9, 16), (2, 2, 3, 9, 12)),
    "broadcast batch": ((2, 3, 7, 16), (1, 3, 9, 16), (1, 3, 9, 12)),
    "broadcast heads": ((2, 3, 7, 16), (2, 1, 9, 16), (2, 3, 9, 12)),
    "broadcast query": ((1, 1, 7, 16), (2, 3, 9, 16), (2, 3, 9, 12)),
    "broadcast rank 5": ((4, 1, 3, 7, 16), (1, 2, 3, 9, 16), (4, 2, 3, 9, 12)),
    "other ranks": ((2, 3, 7, 16), (3, 9, 16), (3, 9, 12)),
    "no rows": ((2, 3, 0, 16), (2, 3, 9, 16), (2, 3, 9, 12)),
    "no batch": ((0, 2, 3, 7, 16), (0, 2, 3, 9, 16), (0, 2, 3, 9, 12)),
}


def test_the_signature_is_torchs(torch: Any) -> None:
    ours = inspect.signature(sdpa)
    assert list(ours.parameters) == [
        "query",
        "key",
        "value",
        "attn_mask",
        "dropout_p",
        "is_causal",
        "scale",
        "enable_gqa",
    ]
    # Torch tells its signature at the start of its documentation only.
    theirs = torch.nn.functional.scaled_dot_product_attention.__doc__.split("->")[0]
    given = ", ".join(str(p).split(":")[0] for p in ours.parameters.values())
    names = [name.split("=")[0].strip() for name in theirs.split("(")[1].split(",")]
    assert [name.rstrip(")") for name in names] == given.split(", ")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float"])
def test_shapes_as_in_torch(torch: Any, name: str, mask: str) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(shape, generator=generator) for shape in SHAPES[name])
    options: dict[str, Any] = {"is_causal": mask == "causal"}
    if mask in ("bool", "float"):
        bias = torch.randn(q.shape[-2], k.shape[-2], generator=generator)
        options["attn_mask"] = bias > -1 if mask == "bool" else bias
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    found = sdpa(q, k, v, **options)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    arrays = {key: x.numpy() if torch.is_tensor(x) else x for key, x in options.items()}
    from_numpy = sdpa(q.numpy(), k.numpy(), v.numpy(), **arrays)
    assert type(from_numpy) is np.ndarray
    np.testing.assert_array_equal(from_numpy, found.numpy())


@pytest.mark.parametrize("shape", [(9,), (7, 9), (1, 9), (3, 1, 9), (3, 7, 9), (2, 1, 7, 9)])
def test_masks_broadcast_as_in_torch(torch: Any, shape: tuple[int, ...]) -> None:
    q, k = torch.randn(2, 3, 7, 16), torch.randn(2, 3, 9, 16)
    bias = torch.randn(shape)
    # torch's fused kernels want two dimensions at least
    wide = bias if bias.ndim > 1 else bias[None]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=wide)
    torch.testing.assert_close(sdpa(q, k, k, attn_mask=bias), expected, rtol=1e-5, atol=1e-5)


def test_masks_of_more_batches(torch: Any) -> None:
    q, k = torch.randn(2, 4, 3, 7, 16), torch.randn(2, 4, 3, 9, 16)
    for shape in ((2, 4, 3, 7, 9), (2, 1, 1, 7, 9), (1, 4, 3, 1, 9), (4, 3, 7, 9)):
        bias = torch.randn(shape)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=bias)
        torch.testing.assert_close(sdpa(q, k, k, attn_mask=bias), expected, rtol=1e-5, atol=1e-5)
    transposed = q.transpose(0, 1)
    expected = torch.nn.functional.scaled_dot_product_attention(transposed, transposed, transposed)
    torch.testing.assert_close(
        sdpa(transposed, transposed, transposed), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("kv_heads", "v_heads"), [(2, 2), (1, 1), (2, 3), (6, 6)])
def test_grouped_heads_as_in_torch(torch: Any, kv_heads: int, v_heads: int) -> None:
    q, k, v = (
        torch.randn(2, 6, 7, 16),
        torch.randn(2, kv_heads, 9, 16),
        torch.randn(2, v_heads, 9, 8),
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(6 // kv_heads, 1), v.repeat_interleave(6 // v_heads, 1)
    )
    found = sdpa(q, k, v, enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    numpy = sdpa(q.numpy(), k.numpy(), v.numpy(), enable_gqa=True)
    np.testing.assert_array_equal(numpy, found.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_as_in_torch(torch: Any, dtype: str) -> None:
    q, k = torch.randn(2, 3, 33, 64), torch.randn(2, 3, 65, 64)
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), k.double())
    q, k = (x.to(getattr(torch, dtype)) for x in (q, k))
    ours, theirs = sdpa(q, k, k), torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert ours.dtype == theirs.dtype
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()


def test_scale(normal: Draw) -> None:
    q, k = normal(1, 2, 5, 8), normal(1, 2, 6, 8)
    expected = plain.attention(q, k, k, scale=0.7)[0]
    np.testing.assert_allclose(sdpa(q, k, k, scale=0.7), expected, rtol=2e-5, atol=2e-5)


def test_what_torch_refuses(normal: Draw) -> None:
    x = normal(1, 2, 4, 8)
    mask = np.ones((4, 4), bool)
    with pytest.raises(umfa.InvalidArgument, match="attn_mask: given together with is_causal=True"):
        sdpa(x, x, x, attn_mask=mask, is_causal=True)
    with pytest.raises(umfa.Unsupported, match=r"dropout_p: 0\.1, expected 0\.0"):
        sdpa(x, x, x, dropout_p=0.1)
    with pytest.raises(umfa.InvalidType, match="dtypes float32, float16 and float32"):
        sdpa(x, x.astype(np.float16), x)
    with pytest.raises(umfa.InvalidDimensions, match="2, 4 and 4 heads, expected the same"):
        sdpa(x, normal(1, 4, 4, 8), normal(1, 4, 4, 8))
    with pytest.raises(umfa.InvalidDimensions, match="expected a multiple"):
        sdpa(normal(1, 5, 4, 8), x, x, enable_gqa=True)
    with pytest.raises(umfa.InvalidDimensions, match="expected ones that broadcast"):
        sdpa(normal(2, 2, 4, 8), normal(3, 2, 4, 8), normal(3, 2, 4, 8))
    with pytest.raises(umfa.InvalidDimensions, match=r"attn_mask: shape \(3, 4\)"):
        sdpa(x, x, x, attn_mask=mask[:3])
    with pytest.raises(umfa.InvalidDimensions, match="attn_mask: shape"):
        sdpa(x, x, x, attn_mask=np.ones((2, 1, 4, 4), bool))
    with pytest.raises(umfa.InvalidDimensions, match=r"query: shape \(8,\), expected rank 2"):
        sdpa(x[0, 0, 0], x, x)
    with pytest.raises(umfa.InvalidType, match="query: list, expected an array"):
        sdpa([[1.0]], x, x)
    with pytest.raises(umfa.InvalidType, match="dtypes float64, float32 and float32"):
        sdpa(x.astype(np.float64), x, x)


def test_precision(normal: Draw, context: umfa.MFAContext) -> None:
    q, k, v = normal(2, 4, 33, 64), normal(2, 4, 65, 64), normal(2, 4, 65, 64)
    quick = umfa.SDPA(precision={"k": "int8", "v": "int8"}, granularity="row", context=context)
    expected = umfa.quantized_attention(
        q,
        umfa.quantize(k, "int8", "row"),
        umfa.quantize(v, "int8", "row"),
        causal=True,
        alignment="top_left",
    )
    np.testing.assert_array_equal(quick(q, k, v, is_causal=True), expected)
    assert umfa.MetalSDPA is umfa.SDPA
    assert repr(quick) == ("SDPA(precision={'k': 'int8', 'v': 'int8'}, granularity='row')")
    with pytest.raises(umfa.InvalidArgument, match='precision: "int5"'):
        umfa.SDPA("int5")(q, k, v)
    with pytest.raises(TypeError, match="unexpected keyword argument 'granulation'"):
        umfa.SDPA("int8", granulation="row")(q, k, v)


def test_umfa_torch(torch: Any) -> None:
    import umfa.torch

    x = torch.randn(2, 4, 9, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    found = umfa.torch.scaled_dot_product_attention(x, x, x, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    window = umfa.torch.scaled_dot_product_attention(x, x, x, window=(2, 0))
    torch.testing.assert_close(window, umfa.attention(x, x, x, window=(2, 0)))


def test_views_cost_no_copy(torch: Any) -> None:
    # 8 TB of addresses in 64 bytes: a copy could not be had
    x = torch.zeros(16).expand(1 << 14, 1 << 14, 1, 1 << 9, 16)
    with pytest.raises(umfa.InvalidDimensions, match="attn_mask"):
        sdpa(x, x, x, attn_mask=torch.zeros(2, 2))
