"""Where the elements of a tensor lie in its buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from reference.precision import BF16, BOOL, FP16, FP32, INT4, INT8, bits, elements, pack_int4

Shape = tuple[int, int, int, int]

# What fills the elements of a buffer outside the view: a NaN, or the most harmful integer.
_POISON = {
    FP32: np.float32(np.nan),
    FP16: np.float16(np.nan),
    BF16: 0x7FC0,
    INT4: -8,
    INT8: -128,
    BOOL: 255,
}

LAYOUTS = ("packed", "bnhd", "transposed", "padded", "over batch", "over heads")


@dataclass(frozen=True)
class View:
    shape: Shape
    strides: Shape
    """Elements; 0 = broadcast."""
    start: int
    """Elements before [0, 0, 0, 0]."""
    size: int
    """Elements of the whole buffer."""

    def bytes(self, precision: int) -> int:
        return -(-self.size * bits(precision) // 8)

    def byte_offset(self, precision: int) -> int:
        return self.start * bits(precision) // 8


def _contiguous(shape: Shape) -> Shape:
    _, heads, rows, columns = shape
    return (heads * rows * columns, rows * columns, columns, 1)


def place(shape: Shape, layout: str) -> View:
    """The view of a tensor of this shape in one of LAYOUTS.

    packed      contiguous
    bnhd        the heads of a row side by side: [batch, rows, heads, columns]
    transposed  each head's matrix as [columns, rows]
    padded      gaps after every row and head, room before and after (all even, for INT4)
    over batch, over heads   stride 0 in that dimension
    """
    _batch, heads, rows, columns = shape
    start = tail = 0
    if layout == "packed":
        strides = _contiguous(shape)
    elif layout == "bnhd":
        strides = (rows * heads * columns, columns, heads * columns, 1)
    elif layout == "transposed":
        strides = (heads * rows * columns, rows * columns, 1, rows)
    elif layout == "padded":
        row = columns + 4 - columns % 2
        head = row * (rows + 1)
        strides = (heads * head + 2 * row, head, row, 1)
        start, tail = 2 * row, 3 * row
    elif layout == "over batch":
        strides = (0, *_contiguous((1, heads, rows, columns))[1:])
    elif layout == "over heads":
        strides = (rows * columns, 0, columns, 1)
    else:
        raise ValueError(f"layout {layout!r} is none of {LAYOUTS}")
    last = sum((n - 1) * s for n, s in zip(shape, strides)) + 1 if min(shape) > 0 else 0
    return View(shape, strides, start, start + last + tail)


def broadcast(shape: Shape, stored: Shape) -> View:
    """A view of `shape` with stride 0 wherever `stored` has size 1 and `shape` has not."""
    strides = tuple(
        0 if s == 1 and n != 1 else c for n, s, c in zip(shape, stored, _contiguous(stored))
    )
    return View(shape, (strides[0], strides[1], strides[2], strides[3]), 0, int(np.prod(stored)))


def lay(view: View, stored: NDArray, gap: object) -> NDArray:
    """The elements of a buffer that holds `stored` in the view and `gap` elsewhere."""
    storage = np.full(view.size, gap, stored.dtype)
    if stored.size:
        items = tuple(s * storage.itemsize for s in view.strides)
        as_strided(storage[view.start :], view.shape, items)[...] = stored
    return storage


def fill(view: View, values: NDArray, precision: int) -> bytes:
    """The bytes of a buffer that holds `values` in the view and poison elsewhere."""
    storage = lay(view, elements(values, precision), _POISON[precision])
    if precision == INT4:
        return pack_int4(storage).tobytes()
    return storage.tobytes()
