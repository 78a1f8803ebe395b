"""What is done with several quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from umfa._errors import InvalidArgument, InvalidDimensions, InvalidType
from umfa._native import QuantizedTensor

_SETTINGS = ("precision", "granularity", "block_rows", "group", "symmetric", "rotated", "layout")


def concatenate(tensors: Sequence[QuantizedTensor], axis: int = 0) -> QuantizedTensor:
    """Quantized tensors behind each other along an axis, as `numpy.concatenate` does it.

    Nothing is rounded again, so the tensors must be stored alike. With granularity "tensor" they
    must have one scale, which `umfa.quantize(x, scale=...)` can give them. Along the rows, blocks
    of rows must be whole in all but the last one, and means of smoothing equal.

    Args:
        tensors: one `umfa.QuantizedTensor` or more.
        axis: batch, heads or rows, as counted in `shape`.

    Returns:
        A copy, whose `error` is None.

    Example:
        >>> import numpy as np, umfa
        >>> x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 1, 4, 64)
        >>> x8 = umfa.quantize(x, "int8", "row")
        >>> umfa.concatenate([x8, x8[:, :, :1]], axis=2).shape
        (1, 1, 5, 64)
    """
    tensors = list(tensors)
    if not tensors:
        raise InvalidArgument("tensors: none, expected at least one")
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, QuantizedTensor):
            raise InvalidType(
                f"tensors[{index}]: {type(tensor).__name__}, expected an umfa.QuantizedTensor"
            )
    first = tensors[0]
    axis = _axis(first, axis)
    rows = _rows(first)
    for index, tensor in enumerate(tensors[1:], 1):
        _alike(tensor, first, index, axis)
    if first.block_rows is not None and axis == rows:
        for index, tensor in enumerate(tensors[:-1]):
            if tensor.shape[rows] % first.block_rows:
                raise InvalidDimensions(
                    f"tensors[{index}]: {tensor.shape[rows]} rows, expected whole blocks of "
                    f"{first.block_rows}, which share their scales, in all but the last tensor"
                )
    shared = first.granularity == "tensor"
    if shared:
        _equal(tensors, "scale", 'granularity "tensor" has one for all')
        _equal(tensors, "zero_point", 'granularity "tensor" has one for all')
    if axis == rows:
        _equal(tensors, "mean", "all rows share it")

    def join(name: str, along: int) -> Any:
        parts = [getattr(tensor, name) for tensor in tensors]
        if parts[0] is None:
            return None
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts, along)
        import torch

        return torch.cat(parts, along)

    return QuantizedTensor(
        join("data", axis),
        first.scale if shared else join("scale", axis),
        first.zero_point if shared else join("zero_point", axis),
        first.mean if axis == rows else join("mean", axis - (rows < axis)),
        first.precision,
        first.granularity,
        first.block_rows,
        first.group,
        first.rotated,
        layout=first.layout,
    )


def _rows(tensor: QuantizedTensor) -> int:
    """The axis of the rows."""
    outer = tensor.layout == "BNHD" and tensor.ndim > 2
    return tensor.ndim - (3 if outer else 2)


def _axis(tensor: QuantizedTensor, axis: int) -> int:
    rank = tensor.ndim
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < rank:
        raise InvalidArgument(f"axis: {axis}, expected {-rank} to {rank - 1}")
    if found == rank - 1:
        raise InvalidArgument(
            f"axis: {axis}, the columns, expected another: columns share their scales"
        )
    return found


def _alike(tensor: QuantizedTensor, first: QuantizedTensor, index: int, axis: int) -> None:
    """Refuses a tensor that is stored in another way than the first one."""
    settings = [(name, getattr(tensor, name), getattr(first, name)) for name in _SETTINGS]
    settings.append(("smoothed", tensor.mean is not None, first.mean is not None))
    settings.append(("dtype of scales", tensor.scale.dtype, first.scale.dtype))
    if tensor.zero_point is not None and first.zero_point is not None:
        dtypes = tensor.zero_point.dtype, first.zero_point.dtype
        settings.append(("dtype of zero points", *dtypes))
    for name, found, expected in settings:
        if found != expected:
            raise InvalidArgument(
                f"tensors[{index}]: {name} {found!r}, expected {expected!r} as tensors[0]"
            )
    if type(tensor.data) is not type(first.data):
        raise InvalidType(
            f"tensors[{index}]: data in a {type(tensor.data).__name__}, expected a "
            f"{type(first.data).__name__} as tensors[0]"
        )
    same = tensor.ndim == first.ndim and all(
        a == b or at == axis for at, (a, b) in enumerate(zip(tensor.shape, first.shape))
    )
    if not same:
        raise InvalidDimensions(
            f"tensors[{index}]: shape {tensor.shape}, expected {first.shape} as tensors[0], but "
            f"for dimension {axis}"
        )


def _equal(tensors: Sequence[QuantizedTensor], name: str, why: str) -> None:
    expected = getattr(tensors[0], name)
    for index, tensor in enumerate(tensors[1:], 1):
        found = getattr(tensor, name)
        if found is None or found is expected:
            continue
        if not np.array_equal(np.asarray(found).reshape(-1), np.asarray(expected).reshape(-1)):
            raise InvalidArgument(
                f"tensors[{index}].{name}: other values than in tensors[0], expected the same: "
                f"{why}"
            )
