"""quantize and QuantizedTensor."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]
Array = npt.NDArray[Any]

LEVELS = {"int8": 127, "int4": 7}


def unpacked(tensor: umfa.QuantizedTensor) -> Array:
    """The integers, one in each element."""
    data: Array = np.asarray(tensor.data)
    if tensor.precision == "int8":
        return data.astype(np.int32)
    nibbles = np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], -1).astype(np.int32)
    return np.where(nibbles > 7, nibbles - 16, nibbles)


def spread(tensor: umfa.QuantizedTensor, parameters: Array) -> Array:
    """Scales or zero points, one for each element."""
    *_, rows, columns = tensor.shape
    parameters = np.asarray(parameters)
    if tensor.granularity == "tensor":
        return parameters
    if tensor.granularity == "row":
        return np.repeat(parameters, tensor.group or columns, -1)[..., :columns]
    assert tensor.block_rows is not None
    return np.repeat(parameters, tensor.block_rows, -2)[..., :rows, :]


FORMS: list[dict[str, Any]] = [
    {"granularity": "tensor"},
    {"granularity": "row"},
    {"granularity": "row", "group": 32},
    {"granularity": "block", "block_rows": 16},
    {"granularity": "channel", "block_rows": 16},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_symmetric_formula(normal: Draw, precision: Any, form: dict[str, Any]) -> None:
    x = normal(2, 3, 37, 48)
    tensor = umfa.quantize(x, precision, **form)
    assert tensor.shape == x.shape
    assert tensor.symmetric
    scale = spread(tensor, tensor.scale)
    levels = LEVELS[precision]
    expected = np.clip(np.rint(x / scale), -levels, levels)
    # A division that lands on a tie up to rounding may go either way.
    assert np.abs(unpacked(tensor) - expected).max() <= 1
    assert (unpacked(tensor) != expected).mean() < 1e-3
    largest = np.abs(unpacked(tensor)).max()
    assert largest == levels
    np.testing.assert_allclose(tensor.dequantize(), unpacked(tensor) * scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_asymmetric_formula(normal: Draw, precision: Any, form: dict[str, Any]) -> None:
    x = np.abs(normal(2, 2, 37, 48)) + 0.5
    form = {**form, "measure_error": True}
    tensor = umfa.quantize(x, precision, symmetric=False, zero_point_dtype="int32", **form)
    assert tensor.zero_point.dtype == np.int32
    assert tensor.zero_point.shape == tensor.scale.shape
    scale, zero = spread(tensor, tensor.scale), spread(tensor, tensor.zero_point)
    real = (unpacked(tensor) - zero) * scale
    np.testing.assert_allclose(tensor.dequantize(), real, rtol=1e-6, atol=1e-6)
    assert (np.abs(real - x) <= 0.51 * scale).all()
    symmetric = umfa.quantize(x, precision, **form)
    assert tensor.error.rmse < 0.7 * symmetric.error.rmse  # type: ignore[union-attr]


def test_shapes_of_parameters(normal: Draw) -> None:
    x = normal(2, 3, 37, 64)
    assert umfa.quantize(x).scale.shape == ()
    assert umfa.quantize(x, "int8", "row").scale.shape == (2, 3, 37, 1)
    assert umfa.quantize(x, "int8", "row", group=32).scale.shape == (2, 3, 37, 2)
    assert umfa.quantize(x, "int8", "block").scale.shape == (2, 3, 1, 1)
    assert umfa.quantize(x, "int8", "channel", block_rows=8).scale.shape == (2, 3, 5, 64)
    assert umfa.quantize(x, smooth=True).mean.shape == (2, 3, 64)
    assert umfa.quantize(x, "int4").data.shape == (2, 3, 37, 32)
    assert umfa.quantize(x[0, 0], "int8", "row").scale.shape == (37, 1)
    other = umfa.quantize(x.swapaxes(1, 2), "int8", "row", smooth=True, layout="BNHD")
    assert other.scale.shape == (2, 37, 3, 1)
    assert other.mean.shape == (2, 3, 64)
    assert umfa.quantize(x, scale_dtype="float16").scale.dtype == np.float16


def test_the_error_is_what_rounding_did(normal: Draw) -> None:
    x = normal(1, 2, 50, 32)
    assert umfa.quantize(x, "int4", "row").error is None
    tensor = umfa.quantize(x, "int4", "row", rotate=True, smooth=True, measure_error=True)
    difference = tensor.dequantize().astype(np.float64) - x
    error = tensor.error
    assert error is not None
    rmse = np.sqrt(np.mean(difference**2))
    assert error.rmse == pytest.approx(rmse, rel=1e-4)
    assert error.relative_rmse == pytest.approx(
        rmse / np.sqrt(np.mean(x.astype(float) ** 2)), rel=1e-4
    )
    assert error.max_abs == pytest.approx(np.abs(difference).max(), rel=1e-4)
    rows = np.sqrt(np.mean(difference**2, -1))
    assert error.worst_row_rmse == pytest.approx(rows.max(), rel=1e-4)


def test_smoothing_removes_an_offset(normal: Draw) -> None:
    x = normal(1, 2, 64, 32) + np.float32(20)
    plain = umfa.quantize(x, "int8", "row", measure_error=True)
    smooth = umfa.quantize(x, "int8", "row", smooth=True, measure_error=True)
    np.testing.assert_allclose(smooth.mean, x.mean(2), rtol=1e-5)
    assert smooth.error.rmse < 0.3 * plain.error.rmse  # type: ignore[union-attr]
    again = umfa.quantize(x, "int8", "row", mean=smooth.mean)
    np.testing.assert_array_equal(again.data, smooth.data)


def test_rotation_spreads_outliers(normal: Draw) -> None:
    x = normal(1, 2, 64, 32)
    x[..., 5] *= 20
    plain = umfa.quantize(x, "int8", "row", measure_error=True)
    rotated = umfa.quantize(x, "int8", "row", rotate=True, measure_error=True)
    assert rotated.rotated
    assert rotated.error.rmse < 0.6 * plain.error.rmse  # type: ignore[union-attr]
    np.testing.assert_allclose(rotated.dequantize(), x, atol=0.5)


def test_given_scales(normal: Draw) -> None:
    x = normal(2, 8, 16)
    tensor = umfa.quantize(x, scale=0.05)
    assert tensor.scale == np.float32(0.05)
    np.testing.assert_array_equal(tensor.data, np.clip(np.rint(x / np.float32(0.05)), -127, 127))
    scale = np.full((2, 8, 1), 0.05, np.float32)
    zero = np.full((2, 8, 1), 3, np.int8)
    given = umfa.quantize(x, "int8", "row", scale=scale, zero_point=zero, symmetric=False)
    assert given.scale is scale
    assert given.zero_point is zero
    np.testing.assert_array_equal(given.data, np.clip(np.rint(x / scale) + 3, -128, 127))


def test_a_tensor_from_its_parts(normal: Draw) -> None:
    x = normal(2, 8, 64)
    made = umfa.quantize(x, "int4", "row", group=32, symmetric=False, smooth=True, rotate=True)
    again = umfa.QuantizedTensor(
        made.data,
        made.scale,
        made.zero_point,
        made.mean,
        precision="int4",
        granularity="row",
        group=32,
        rotated=True,
        shape=(2, 8, 64),
    )
    assert again.data is made.data
    assert again.error is None
    np.testing.assert_array_equal(again.dequantize(), made.dequantize())
    plain = umfa.QuantizedTensor(np.ones((4, 8), np.int8), 0.5)
    assert plain.dequantize().tolist() == np.full((4, 8), 0.5).tolist()
    assert umfa.QuantizedTensor(np.ones((4, 8), np.int8), np.ones(1, np.float32)).nbytes == 36


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_slices_are_views(normal: Draw, form: dict[str, Any]) -> None:
    x = normal(2, 3, 64, 64)
    whole = umfa.quantize(x, "int4", symmetric=False, smooth=True, **form)
    part = whole[1:, :2, 16:50]
    assert part.shape == (1, 2, 34, 64)
    assert np.shares_memory(part.data, whole.data)
    assert np.shares_memory(part.scale, whole.scale)
    np.testing.assert_array_equal(part.dequantize(), whole.dequantize()[1:, :2, 16:50])
    q = normal(1, 2, 5, 64)
    expected = umfa.attention(q, part.dequantize(), part.dequantize())
    np.testing.assert_allclose(umfa.attention(q, part, part), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(whole[..., :32, :].data, whole[:, :, :32].data)


def test_slices_that_are_no_views(normal: Draw) -> None:
    tensor = umfa.quantize(normal(1, 2, 64, 16), "int8", "block", block_rows=16)
    with pytest.raises(umfa.InvalidArgument, match="starts at 8, expected a multiple of the 16"):
        tensor[:, :, 8:]
    with pytest.raises(umfa.InvalidArgument, match="step 2 in dimension 2, expected step 1"):
        tensor[:, :, ::2]
    with pytest.raises(umfa.InvalidArgument, match="index of columns"):
        tensor[..., :8]
    with pytest.raises(TypeError, match="expected a slice"):
        tensor[0]  # type: ignore[index]


def test_a_cache_of_fixed_capacity(normal: Draw) -> None:
    heads, capacity, columns = 2, 40, 32
    cache = umfa.quantize(np.zeros((1, heads, capacity, columns), np.float32), "int8", "row")
    address = cache.data.ctypes.data
    keys = normal(1, heads, capacity, columns)
    filled = 0
    for rows in (17, 1, 1, 20):
        slot = cache[:, :, filled : filled + rows]
        assert umfa.quantize(keys[:, :, filled : filled + rows], out=slot) is slot
        filled += rows
        view = cache[:, :, :filled]
        fresh = umfa.quantize(keys[:, :, :filled], "int8", "row")
        np.testing.assert_array_equal(view.data, fresh.data)
        np.testing.assert_array_equal(view.scale, fresh.scale)
        q = normal(1, 4, 1, columns)
        np.testing.assert_array_equal(
            umfa.attention(q, view, view), umfa.attention(q, fresh, fresh)
        )
    assert cache.data.ctypes.data == address


def test_appending_keeps_the_scale_and_the_mean(normal: Draw) -> None:
    x = normal(1, 1, 8, 16) + 3
    tensor = umfa.quantize(x, smooth=True)
    scale, mean = tensor.scale.copy(), tensor.mean.copy()
    umfa.quantize(100 * x[:, :, :2], out=tensor[:, :, :2])
    np.testing.assert_array_equal(tensor.scale, scale)
    np.testing.assert_array_equal(tensor.mean, mean)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_copies(normal: Draw, torch: Any, kind: str) -> None:
    x: Any = normal(1, 2, 8, 64)
    if kind == "torch":
        x = torch.from_numpy(x)
    tensor = umfa.quantize(x, "int4", "row", group=64, symmetric=False, smooth=True, rotate=True)
    for other in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor), copy.copy(tensor)):
        assert repr(other) == repr(tensor)
        assert other.error == tensor.error
        assert type(other.data) is type(tensor.data)
        assert (np.asarray(other.dequantize()) == np.asarray(tensor.dequantize())).all()
    assert copy.copy(tensor).data is tensor.data
    assert copy.deepcopy(tensor).data is not tensor.data


def test_repr(normal: Draw) -> None:
    x = normal(2, 4, 64)
    options: dict[str, Any] = {"precision": "int4", "group": 32, "symmetric": False}
    expected = (
        "QuantizedTensor(shape=(2, 4, 64), precision='int4', granularity='row', group=32, "
        "symmetric=False, nbytes=336"
    )
    assert repr(umfa.quantize(x, granularity="row", **options)) == expected + ")"
    measured = umfa.quantize(x, granularity="row", measure_error=True, **options)
    assert repr(measured).startswith(expected + ", relative_rmse=")


def test_dequantize(normal: Draw, ml_dtypes: Any) -> None:
    tensor = umfa.quantize(normal(2, 4, 16), "int8", "row")
    wide = tensor.dequantize()
    assert tensor.dequantize("float16").dtype == np.float16
    brain = tensor.dequantize("bfloat16")
    np.testing.assert_array_equal(brain, wide.astype(ml_dtypes.bfloat16))
    out = np.empty((2, 4, 16), np.float32)
    assert tensor.dequantize(out=out) is out
    np.testing.assert_array_equal(out, wide)
    with pytest.raises(umfa.InvalidArgument, match="expected float32, float16 or bfloat16"):
        tensor.dequantize("float64")


def test_zeros_get_scale_one() -> None:
    tensor = umfa.quantize(np.zeros((3, 8), np.float32), "int8", "row")
    assert (tensor.scale == 1).all()
    assert not tensor.data.any()


def test_layout_bnhd_of_quantized_operands(normal: Draw) -> None:
    q, k = normal(2, 5, 4, 16), normal(2, 9, 2, 16)
    k8 = umfa.quantize(k, "int8", "row", layout="BNHD")
    found = umfa.attention(q, k8, k8, layout="BNHD")
    swapped = umfa.quantize(k.swapaxes(1, 2), "int8", "row")
    np.testing.assert_array_equal(found, umfa.attention(q, swapped, swapped, layout="BNHD"))
    real = k8.dequantize()
    np.testing.assert_allclose(
        found, umfa.attention(q, real, real, layout="BNHD"), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("part", "shape"),
    [("scale", (64,)), ("zero_point", (1, 64, 1, 1)), ("mean", (16,)), ("data", (1, 2, 32, 16))],
)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_parts_that_were_reshaped_are_refused(
    normal: Draw, precision: Any, part: str, shape: tuple[int, ...]
) -> None:
    q, x = normal(1, 1, 3, 16), normal(1, 1, 64, 16)
    stored = umfa.quantize(x, precision, "row", symmetric=False, smooth=True)
    if precision == "int4" and part == "data":
        shape = (1, 1, 128, 4)
    getattr(stored, part).shape = shape
    calls: list[Callable[[], Any]] = [
        lambda: umfa.attention(q, stored, x),
        lambda: umfa.attention(q, x, stored),
        lambda: umfa.workspace_size(q, stored, stored),
        lambda: umfa.quantize(x, out=stored),
        lambda: stored[:, :, :5],
        stored.dequantize,
    ]
    for call in calls:
        with pytest.raises(umfa.InvalidDimensions, match="expected"):
            call()
