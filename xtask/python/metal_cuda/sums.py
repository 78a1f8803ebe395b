"""Products of matrices whose sums have an order: one term after the other.

The naive evaluation of the error rule sums so (tests/conformance/reference/portable.py), and a
library's product does not: its sums are in blocks, and err less. `xp` is NumPy or CuPy; on a GPU
the kernels of sums.h do it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = Any

SOURCE = Path(__file__).with_name("sums.h")
TILE, THREADS = 64, 256
# Batches that one launch can have.
_MOST = 65535


def product(xp: Any, a: Array, b: Array, into: Array | None = None) -> Array:
    """a[g, n, k] b[g, k, m] or b[k, m] in FP32, in order of k; goes on from the sums in `into`."""
    if a.dtype != xp.float32 or b.dtype != xp.float32:
        raise ValueError(f"sums in FP32 of {a.dtype} and {b.dtype}")
    total = _zeros(xp, a, b) if into is None else into
    if xp is np:
        for k in range(a.shape[2]):
            total += a[:, :, k, None] * b[..., None, k, :]
    else:
        _launch("sums_in_order", a, b, total)
    return total


def total(xp: Any, x: Array, into: Array | None = None) -> Array:
    """The sums of the rows of x[g, n, k]: [g, n, 1]."""
    return product(xp, x, xp.ones((x.shape[2], 1), x.dtype), into)


class Squares:
    """The partial sums of products in order, in float64, and the squares of all that is rounded."""

    def __init__(self, xp: Any, shape: tuple[int, ...]) -> None:
        self.xp = xp
        self.partial, self.squares = xp.zeros(shape), xp.zeros(shape)

    def add(self, a: Array, b: Array) -> None:
        """The terms of a[g, n, k] b[g, k, m] or b[k, m]."""
        if self.xp is np:
            for k in range(a.shape[2]):
                term = a[:, :, k, None] * b[..., None, k, :]
                self.partial += term
                self.squares += term**2 + self.partial**2
        else:
            _launch("sums_with_squares", a, b, self.partial, self.squares)


def squares(xp: Any, a: Array, b: Array) -> Array:
    """The squares of all products and partial sums of a b."""
    result = Squares(xp, (a.shape[0], a.shape[1], b.shape[-1]))
    result.add(a, b)
    return result.squares


def _zeros(xp: Any, a: Array, b: Array) -> Array:
    return xp.zeros((a.shape[0], a.shape[1], b.shape[-1]), a.dtype)


def arguments(a: Array, b: Array, first_batch: int = 0) -> list[Any]:
    """The last parameters of a kernel: steps, in elements, and sizes."""
    size = a.dtype.itemsize
    steps = [*a.strides, *((0, *b.strides) if b.ndim == 2 else b.strides)]
    sizes = (a.shape[1], a.shape[2], b.shape[-1])
    return [np.int64(step // size) for step in steps] + [np.int32(n) for n in (*sizes, first_batch)]


def grid(a: Array, b: Array) -> tuple[int, int, int]:
    return (-(-a.shape[1] // TILE), -(-b.shape[-1] // TILE), a.shape[0])


@cache
def _kernels() -> Any:
    import cupy as cp

    return cp.RawModule(code=SOURCE.read_text(), options=("-std=c++17",))


def _launch(kernel: str, a: Array, b: Array, *results: Array) -> None:
    kind = results[0].dtype
    if not all(x.dtype == kind for x in (a, b)) or not all(x.flags.c_contiguous for x in results):
        raise ValueError(f"{kernel}: {a.dtype}, {b.dtype}, {kind}")
    if 0 in (*a.shape, b.shape[-1]):
        return
    function = _kernels().get_function(kernel)
    across, down, batches = grid(a, b)
    for first in range(0, batches, _MOST):
        size = (across, down, min(batches - first, _MOST))
        function(size, (THREADS,), (a, b, *results, *arguments(a, b, first)))
