"""Real numbers of stored integers, and the rounding of real numbers (eq. 34 to 37, 40, 43, 44, 47).

real = scale * (n - zero_point);  then row * Hadamard if rotated;  then + mean of the column
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import portable
from .precision import DEVIATION, FP16, FP32, INT4, UNIT, rounded

TENSOR, ROW, BLOCK, CHANNEL = 0, 1, 2, 3

Shape = tuple[int, int, int, int]

# GPUs take subnormal numbers of FP32 for 0, but not those of FP16.
_SMALLEST = {FP32: 2.0**-126, FP16: 2.0**-24}


@dataclass(frozen=True)
class Scheme:
    """Everything that is chosen before a tensor is quantized."""

    precision: int
    granularity: int = TENSOR
    block_rows: int = 0
    group_size: int = 0
    asymmetric: bool = False
    smooth: bool = False
    rotated: bool = False
    scale_precision: int = FP32

    @property
    def steps(self) -> int:
        """Steps between the ends of the range: 255 or 15."""
        return 15 if self.precision == INT4 else 255

    @property
    def lowest(self) -> int:
        return -8 if self.precision == INT4 else -128


@dataclass
class Quantized:
    """Stored integers (one to an element, INT4 too) with what they need to be read."""

    scheme: Scheme
    data: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    mean: NDArray[np.float32] | None = None


def scale_shape(shape: Shape, scheme: Scheme) -> Shape:
    """The shape of the array of scales."""
    batch, heads, rows, columns = shape
    if scheme.granularity == TENSOR:
        return (1, 1, 1, 1)
    if scheme.granularity == ROW:
        return (batch, heads, rows, -(-columns // (scheme.group_size or max(columns, 1))))
    blocks = -(-rows // scheme.block_rows)
    return (batch, heads, blocks, 1 if scheme.granularity == BLOCK else columns)


def expand(per_group: NDArray, shape: Shape, scheme: Scheme) -> NDArray:
    """One value per group -> one value per element."""
    if scheme.granularity == TENSOR:
        return np.broadcast_to(per_group, shape)
    if scheme.granularity == ROW:
        repeated = np.repeat(per_group, scheme.group_size or max(shape[3], 1), axis=3)
    else:
        repeated = np.repeat(per_group, scheme.block_rows, axis=2)
    return np.broadcast_to(repeated[:, :, : shape[2], : shape[3]], shape)


def _groups(x: NDArray, scheme: Scheme) -> Iterator[tuple[tuple[int, ...], NDArray]]:
    """(index of the group's scale, the group's elements), group after group."""
    for index in np.ndindex(*scale_shape(x.shape, scheme)):
        batch, head, row, column = index
        if scheme.granularity == TENSOR:
            yield index, x
        elif scheme.granularity == ROW:
            size = scheme.group_size or max(x.shape[3], 1)
            yield index, x[batch, head, row, column * size : (column + 1) * size]
        else:
            rows = x[batch, head, row * scheme.block_rows : (row + 1) * scheme.block_rows]
            yield index, rows if scheme.granularity == BLOCK else rows[:, column]


def hadamard(x: NDArray) -> NDArray:
    """Each row times the orthonormal block-diagonal Sylvester matrix; its own inverse.

    The blocks have the size of the largest power of two that divides the number of columns.
    """
    columns = x.shape[-1]
    size = columns & -columns
    blocks = x.reshape(*x.shape[:-1], columns // size, size)
    half = 1
    while half < size:
        pairs = blocks.reshape(*blocks.shape[:-1], size // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        blocks = np.stack([first + second, first - second], axis=-2).reshape(blocks.shape)
        half *= 2
    return (blocks / x.dtype.type(size**0.5)).reshape(x.shape)


def _without_mean(tensor: Quantized, dtype: type) -> NDArray:
    shape = tensor.data.shape
    scale = expand(tensor.scale.astype(dtype), shape, tensor.scheme)
    zero_point = expand(tensor.zero_point, shape, tensor.scheme)
    real = scale * (tensor.data - zero_point).astype(dtype)
    return hadamard(real) if tensor.scheme.rotated else real


def dequantize(tensor: Quantized, dtype: type = np.float64) -> NDArray:
    """The real values, computed in `dtype`."""
    real = _without_mean(tensor, dtype)
    if tensor.mean is not None:
        real = real + tensor.mean.astype(dtype)[:, :, None, :]
    return real


def dequantize_deviation(tensor: Quantized) -> NDArray[np.float64]:
    """Standard deviation of dequantize() in FP32.

    The product, each stage of the rotation and the sum with the mean are rounded. The mean counts
    as going through the rotation, as it does where a driver works in the rotated basis.
    """
    variance, columns = np.square(_without_mean(tensor, np.float64)), tensor.data.shape[-1]
    if tensor.mean is not None:
        variance = variance + np.square(dequantize(tensor))
    if tensor.scheme.rotated:
        # A stage keeps the mean square of a block, so each rounds numbers of that size.
        size = columns & -columns
        blocks = np.square(dequantize(tensor)).reshape(*variance.shape[:-1], columns // size, size)
        typical = np.broadcast_to(blocks.mean(axis=-1, keepdims=True), blocks.shape).reshape(
            variance.shape
        )
        variance = variance + typical * size.bit_length()
    return DEVIATION * UNIT[FP32] * np.sqrt(variance)


def parameters(group: NDArray[np.float32], scheme: Scheme) -> tuple[np.float32, int]:
    """Scale and zero point of one group as mfa.h defines them.

    The scale is computed exactly and rounded once, when it is stored. The zero point and the
    elements are rounded with the scale as it is stored, because it is what reads them back.
    """
    low, high = min(float(group.min()), 0.0), max(float(group.max()), 0.0)
    width, steps = (
        (high - low, scheme.steps) if scheme.asymmetric else (max(-low, high), scheme.steps // 2)
    )
    scale = float(rounded(np.asarray(width / steps), scheme.scale_precision))
    if width == 0:
        return np.float32(1), 0
    scale = max(scale, _SMALLEST[scheme.scale_precision])
    zero_point = int(np.rint(scheme.lowest - low / scale)) if scheme.asymmetric else 0
    return np.float32(scale), min(max(zero_point, scheme.lowest), scheme.lowest + scheme.steps)


def quantize(
    x: NDArray[np.float64], scheme: Scheme, mean: NDArray[np.float32] | None = None
) -> Quantized:
    """Round a tensor [batch, heads, rows, columns]; `mean` takes the place of the computed one."""
    real = np.asarray(x, np.float64)
    if scheme.smooth:
        if mean is None:
            mean = (portable.total(real, 2)[:, :, 0] / max(real.shape[2], 1)).astype(np.float32)
        real = real - mean.astype(np.float64)[:, :, None, :]
    if scheme.rotated:
        real = hadamard(real)
    stored = real.astype(np.float32)
    scale = np.ones(scale_shape(stored.shape, scheme), np.float32)
    zero_point = np.zeros(scale.shape, np.int32)
    for index, group in _groups(stored, scheme):
        if group.size:
            scale[index], zero_point[index] = parameters(group, scheme)
    n = np.rint(stored / expand(scale, stored.shape, scheme)) + expand(
        zero_point, stored.shape, scheme
    )
    lowest = scheme.lowest if scheme.asymmetric else scheme.lowest + 1
    data = np.clip(n, lowest, scheme.lowest + scheme.steps).astype(np.int8)
    return Quantized(scheme, data, scale, zero_point, mean if scheme.smooth else None)


def row_scale(tensor: Quantized) -> NDArray[np.float64] | None:
    """The scale of each row [batch, heads, rows, 1], where it has one of its own or its block's."""
    scheme = tensor.scheme
    if scheme.granularity not in (ROW, BLOCK) or tensor.scale.shape[3] != 1:
        return None
    scales = expand(tensor.scale.astype(np.float64), tensor.data.shape, scheme)
    return scales[..., :1] if tensor.data.shape[3] else None


def inside(tensor: Quantized) -> NDArray[np.bool_]:
    """False where an element is stored at the end of its range: what the clip option zeroes.

    The range is -127 ... 127 (-7 ... 7) where all zero points are 0 because there are none, or the
    only one is; otherwise -128 ... 127 (-8 ... 7).
    """
    scheme = tensor.scheme
    symmetric = not scheme.asymmetric or (
        scheme.granularity == TENSOR and tensor.zero_point.item() == 0
    )
    lowest = scheme.lowest + 1 if symmetric else scheme.lowest
    return (tensor.data > lowest) & (tensor.data < scheme.lowest + scheme.steps)
