"""Parts of quantized tensors, put together anew: what beam search and evicting caches do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]

FORMATS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "row": {"granularity": "row", "symmetric": False},
    "groups": {"granularity": "row", "group": 32, "scale_dtype": "float16"},
    "block": {"granularity": "block", "block_rows": 8, "symmetric": False},
    "channel": {"granularity": "channel", "block_rows": 8, "rotate": True},
    "smooth": {"granularity": "row", "smooth": True},
    "int4": {"precision": "int4", "granularity": "row", "symmetric": False, "smooth": True},
}


def made(normal: Draw, name: str, shape: tuple[int, ...] = (3, 2, 20, 64), **more: Any) -> Any:
    return umfa.quantize(normal(*shape), **{**FORMATS[name], **more})


@pytest.mark.parametrize("layout", ["BHND", "BNHD"])
@pytest.mark.parametrize("name", FORMATS)
def test_positions_of_batch_and_heads(normal: Draw, name: str, layout: Any) -> None:
    shape = (3, 2, 20, 64) if layout == "BHND" else (3, 20, 2, 64)
    x = made(normal, name, shape, layout=layout)
    real = x.dequantize()
    heads = 1 if layout == "BHND" else 2
    indices: list[Any] = [[2, 0, 0, 1], np.array([-1]), np.array([1, 1], np.uint8), []]
    for index in indices:
        at = np.array(index, np.int64)
        np.testing.assert_array_equal(x[index].dequantize(), real[at])
    chosen = [True, False, True]
    np.testing.assert_array_equal(x[chosen].dequantize(), real[chosen])
    index = (slice(None),) * heads + ([1, 0, 1],)
    np.testing.assert_array_equal(x[index].dequantize(), real[index])
    mixed = (slice(1, 3), *(slice(None),) * (heads - 1), [1])
    np.testing.assert_array_equal(x[mixed].dequantize(), real[mixed])
    assert x[[0]].error is None


@pytest.mark.parametrize("name", FORMATS)
def test_positions_of_rows(normal: Draw, name: str) -> None:
    x = made(normal, name)
    real = x.dequantize()
    blocks = name in ("block", "channel")
    fine = [*range(8, 16), *range(8), *range(16, 20)] if blocks else [0, 1, 19, 7, 7, -2]
    np.testing.assert_array_equal(x[:, :, fine].dequantize(), real[:, :, fine])
    # the first block and the recent ones
    recent = np.r_[0:8, 16:20]
    np.testing.assert_array_equal(x[:, :, recent].dequantize(), real[:, :, recent])
    q = normal(3, 4, 2, 64)
    found = umfa.attention(q, x[:, :, recent], x[:, :, recent])
    expected = umfa.attention(q, real[:, :, recent], real[:, :, recent])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    if blocks:
        for wrong in ([1, 2, 3], [0, 1, 3], [*range(16, 20), *range(8)], [*range(8), 5]):
            with pytest.raises(umfa.InvalidArgument, match=r'whole blocks.*"row" takes any rows'):
                x[:, :, wrong]


def test_positions_that_are_none(normal: Draw) -> None:
    x = made(normal, "row")
    for index, found in ((3, "3"), (-4, "-4"), (1 << 62, str(1 << 62))):
        message = f"index {found} in dimension 0: expected -3 to 2"
        with pytest.raises(umfa.InvalidIndex, match=message):
            x[[0, index]]
    with pytest.raises(umfa.InvalidDimensions, match="2 of True and False, expected 3"):
        x[[True, False]]
    with pytest.raises(umfa.InvalidType, match=r"index 1 in dimension 0.*n : n . 1 keeps it"):
        x[1]
    with pytest.raises(umfa.InvalidType, match=r"index 1.5 in dimension 0"):
        x[1.5]
    for wrong in ([[0, 1]], np.zeros(3), "x", [0.5], [10**30]):
        with pytest.raises(umfa.InvalidType, match="expected a slice or one dimension"):
            x[wrong]
    with pytest.raises(umfa.InvalidArgument, match="2 arrays, expected one"):
        x[[0], [1]]
    with pytest.raises(umfa.InvalidArgument, match=r"step 2 .*or an array of integers"):
        x[:, :, ::2]
    with pytest.raises(umfa.InvalidArgument, match="expected all columns"):
        x[..., [0, 1]]
    with pytest.raises(IndexError) as caught:
        x[:, :, np.arange(10_000)]
    assert len(str(caught.value)) < 200
    with pytest.raises(umfa.InvalidType) as long:
        x[:, :, np.arange(10_000.0)]
    assert len(str(long.value)) < 200


@pytest.mark.parametrize("name", FORMATS)
def test_repeat_as_numpy_does(normal: Draw, name: str) -> None:
    x = made(normal, name)
    real = x.dequantize()
    for axis in (0, 1, -4, -3):
        count = real.shape[axis]
        for repeats in (4, 0, 1, list(range(count)), np.arange(count)):
            found = x.repeat(repeats, axis)
            np.testing.assert_array_equal(found.dequantize(), np.repeat(real, repeats, axis))
    with pytest.raises(umfa.InvalidArgument, match="axis: 3, the columns"):
        x.repeat(2, 3)
    with pytest.raises(umfa.InvalidArgument, match="axis: 4, expected -4 to 3"):
        x.repeat(2, axis=4)
    with pytest.raises(umfa.InvalidArgument, match="repeats: -1, expected"):
        x.repeat(-1, 0)
    with pytest.raises(umfa.InvalidArgument, match="repeats: 2 numbers, expected"):
        x.repeat([1, 2], 0)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("name", FORMATS)
def test_concatenate_as_numpy_does(normal: Draw, name: str, kind: str, request: Any) -> None:
    x = normal(3, 2, 24, 64)
    given: Any = x
    if kind == "torch":
        given = request.getfixturevalue("torch").from_numpy(x)
    whole = umfa.quantize(given, **FORMATS[name])
    real = np.asarray(whole.dequantize())
    for axis, at in ((0, 1), (1, 1), (2, 8), (-2, 16)):
        before = (slice(None),) * (axis % 4)
        parts = [whole[before + (slice(None, at),)], whole[before + (slice(at, None),)]]  # noqa: RUF005
        joined = umfa.concatenate(parts, axis)
        assert type(joined.data) is type(whole.data)
        np.testing.assert_array_equal(np.asarray(joined.dequantize()), real)
        np.testing.assert_array_equal(np.asarray(joined.data), np.asarray(whole.data))
        assert joined.shape == whole.shape
    back = [whole[:, :, 16:], whole[:, :, :8]]
    expected = np.concatenate([real[:, :, 16:], real[:, :, :8]], 2)
    np.testing.assert_array_equal(np.asarray(umfa.concatenate(back, 2).dequantize()), expected)


def test_concatenate_in_the_other_layout(normal: Draw) -> None:
    x = made(normal, "smooth", (2, 20, 3, 64), layout="BNHD")
    real = x.dequantize()
    for axis, parts in ((1, (x[:, :7], x[:, 7:])), (2, (x[:, :, :1], x[:, :, 1:]))):
        joined = umfa.concatenate(parts, axis)
        assert joined.layout == "BNHD"
        np.testing.assert_array_equal(joined.dequantize(), real)


def test_what_cannot_be_concatenated(normal: Draw) -> None:
    x = normal(1, 2, 20, 64)
    row = umfa.quantize(x, "int8", "row")
    with pytest.raises(umfa.InvalidArgument, match="tensors: none, expected at least one"):
        umfa.concatenate([])
    with pytest.raises(umfa.InvalidType, match=r"tensors\[1\]: ndarray, expected an umfa\.Quant"):
        umfa.concatenate([row, x])  # type: ignore[list-item, unused-ignore]
    others = {
        "precision 'int4'": umfa.quantize(x, "int4", "row"),
        "granularity 'tensor'": umfa.quantize(x),
        "group 32": umfa.quantize(x, "int8", "row", group=32),
        "symmetric False": umfa.quantize(x, "int8", "row", symmetric=False),
        "rotated True": umfa.quantize(x, "int8", "row", rotate=True),
        "layout 'BNHD'": umfa.quantize(x, "int8", "row", layout="BNHD"),
        "smoothed True": umfa.quantize(x, "int8", "row", smooth=True),
        "dtype of scales": umfa.quantize(x, "int8", "row", scale_dtype="float16"),
    }
    for found, other in others.items():
        with pytest.raises(umfa.InvalidArgument, match=rf"tensors\[1\]: {found}.*as tensors\[0\]"):
            umfa.concatenate([row, other])
    with pytest.raises(umfa.InvalidDimensions, match=r"shape \(1, 1, 20, 64\), expected"):
        umfa.concatenate([row, row[:, :1]], 2)
    with pytest.raises(umfa.InvalidArgument, match="axis: -1, the columns"):
        umfa.concatenate([row, row], -1)
    block = umfa.quantize(x, "int8", "block", block_rows=8)
    with pytest.raises(
        umfa.InvalidDimensions, match=r"tensors\[0\]: 20 rows, expected whole blocks"
    ):
        umfa.concatenate([block, block], 2)
    one, two = umfa.quantize(x), umfa.quantize(2 * x)
    with pytest.raises(umfa.InvalidArgument, match=r"tensors\[1\]\.scale: other values"):
        umfa.concatenate([one, two], 2)
    given = umfa.quantize(2 * x, scale=float(one.scale))
    assert umfa.concatenate([one, given], 2).shape == (1, 2, 40, 64)
    apart = [umfa.quantize(x + shift, "int8", "row", smooth=True) for shift in (0, 1)]
    with pytest.raises(umfa.InvalidArgument, match=r"tensors\[1\]\.mean: other values"):
        umfa.concatenate(apart, 2)
    assert umfa.concatenate(apart, 0).shape == (2, 2, 20, 64)


def test_a_quantized_tensor_is_no_array(normal: Draw) -> None:
    x = made(normal, "row")
    for call in (np.asarray, np.array, lambda x: np.asarray(x, np.float32)):
        with pytest.raises(umfa.InvalidType, match=r"\.dequantize\(\) makes it of real values"):
            call(x)
    q = normal(3, 4, 2, 64)
    for part in (x.data, umfa.quantize(normal(3, 2, 20, 64), "int4").data):
        with pytest.raises(umfa.InvalidType, match="give the QuantizedTensor itself"):
            umfa.attention(q, part, x)


def test_dtypes_by_their_objects(normal: Draw, torch: Any, ml_dtypes: Any) -> None:
    x = normal(2, 20, 64)
    for name in ("int8", np.int8, np.dtype("int8"), torch.int8):
        assert umfa.quantize(x, name).precision == "int8"
    for half in (np.float16, np.dtype(np.float16), torch.float16, "float16"):
        stored = umfa.quantize(x, "int8", "row", scale_dtype=half)
        assert stored.scale.dtype == np.float16
        assert stored.dequantize(half).dtype == np.float16
        assert umfa.attention(x, x, x, precision={"k": np.int8}, scale_dtype=half).shape == x.shape
    wide = umfa.quantize(x, zero_point_dtype=np.int32, symmetric=False)
    assert wide.zero_point.dtype == np.int32
    assert umfa.quantize(x).dequantize(ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
    for wrong in (np.int16, float, 8, torch.float32):
        with pytest.raises(umfa.InvalidArgument, match=r'precision: .*expected "int8" or "int4"'):
            umfa.quantize(x, wrong)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(umfa.InvalidArgument, match=r"dtype: .*int8.*, expected float32, float16"):
        umfa.quantize(x).dequantize(np.int8)


def test_settings_that_do_nothing_are_refused(normal: Draw) -> None:
    x = normal(2, 20, 64)
    with pytest.raises(umfa.InvalidArgument, match='block_rows: 16 with granularity "row"'):
        umfa.quantize(x, "int8", "row", block_rows=16)
    with pytest.raises(umfa.InvalidArgument, match="zero_point_dtype: given with symmetric=True"):
        umfa.quantize(x, zero_point_dtype="int32")
    with pytest.raises(umfa.InvalidArgument, match='block_rows: 16 with granularity "tensor"'):
        umfa.QuantizedTensor(np.ones((4, 8), np.int8), 1.0, block_rows=16)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_zero_points_are_of_the_integers_range(normal: Draw, precision: Any) -> None:
    x = normal(20, 64)
    least, most = {"int8": (-128, 127), "int4": (-8, 7)}[precision]
    for zero in (least - 1, most + 1, 2**31 - 1):
        message = f"zero_point: {zero}, expected {least} to {most}"
        with pytest.raises(umfa.InvalidArgument, match=message):
            umfa.quantize(x, precision, scale=0.1, zero_point=zero)
        many = np.zeros((20, 1), np.int32)
        many[7] = zero
        stored = umfa.quantize(x, precision, "row")
        with pytest.raises(umfa.InvalidArgument, match=message):
            umfa.QuantizedTensor(stored.data, stored.scale, many, None, precision, "row")
    for zero in (least, most):
        umfa.quantize(x, precision, scale=0.1, zero_point=zero)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("cut", [np.s_[:], np.s_[:, 1:], np.s_[:, :, ::2], np.s_[:, :, 3:9]])
def test_zero_points_are_looked_at_where_they_are(normal: Draw, dtype: Any, cut: Any) -> None:
    stored = umfa.quantize(normal(2, 3, 20, 64), "int4", "row", group=32)
    whole = np.full((2, 3, 20, 2), 100, dtype)  # out of range where the view leaves it out
    zeros = whole[cut]
    zeros[...] = 7

    def make() -> umfa.QuantizedTensor:
        data, scale = stored.data[cut], stored.scale[cut]
        return umfa.QuantizedTensor(data, scale, zeros, None, "int4", "row", group=32)

    make()
    for at in (0, zeros.size // 2, -1):
        zeros.flat[at] = -9
        with pytest.raises(umfa.InvalidArgument, match="zero_point: -9, expected -8 to 7"):
            make()
        zeros.flat[at] = -8
