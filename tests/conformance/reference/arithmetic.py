"""The evaluation of the plain formulas: in float64, or as a careful program without tiles does it
(eq. 50, 54).

The error rule compares a driver with the *naive* evaluation: every operand in the precision in
which it is stored, every product and sum in FP32. A factor that is computed on the way (P, dS)
takes the precision of the stored factor that it is multiplied with, as it must to enter a matrix
unit together with it. Beside an integer V, P takes what enum mfa_compute promises: 15 bits, or 8
bits in fast mode; a scale that differs from row to row of V cannot leave the sum over rows, so P
carries it. In fast mode exp(S) has 17 bits, which is some 500 times finer than the steps of P.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import portable
from .precision import BF16, FP16, INTEGERS, rounded
from .problem import FAST, Operand


@dataclass(frozen=True)
class Arithmetic:
    dtype: type = np.float64
    order: str = ""
    """Seed of the order in which terms are summed; "" = first to last."""

    @property
    def naive(self) -> bool:
        return self.dtype is np.float32

    def cast(self, x: NDArray) -> NDArray:
        with np.errstate(over="ignore"):
            return np.asarray(x, self.dtype)

    def operand(self, x: Operand) -> NDArray:
        """The real values of an operand."""
        return self.cast(x.single if self.naive and x.single is not None else x.values)

    def _order(self, n: int) -> NDArray[np.intp] | None:
        return portable.permutation(self.order, n) if self.order else None

    def total(self, x: NDArray, axis: int) -> NDArray:
        return portable.total(x, axis, self._order(x.shape[axis]))

    def matmul(self, a: NDArray, b: NDArray, keep: NDArray[np.bool_] | None = None) -> NDArray:
        return portable.matmul(a, b, self._order(a.shape[-1]), keep)

    def beside(self, x: NDArray, partner: int) -> NDArray:
        """A computed factor, rounded to the precision of the stored factor beside it."""
        if self.naive and partner in (FP16, BF16):
            return self.cast(rounded(x, partner))
        return x

    def exponential(self, x: NDArray, value_precision: int, compute: int) -> NDArray:
        """e^x, for P."""
        p = portable.exp(x)
        if self.naive and value_precision in INTEGERS and compute == FAST:
            mantissa, exponent = np.frexp(p)
            p = np.ldexp(np.rint(mantissa * 2.0**17) / 2.0**17, exponent).astype(self.dtype)
        return p

    def weights(self, p: NDArray, value_precision: int, scale: NDArray, compute: int) -> NDArray:
        """exp(S - max), in [0, 1], as it enters the product with V; V's row j has scale[..., j]."""
        if not (self.naive and value_precision in INTEGERS):
            return self.beside(p, value_precision)
        carried = p * self.cast(scale)
        steps = self.dtype(255 if compute == FAST else 32767)
        step = np.abs(carried).max(axis=-1, keepdims=True, initial=0.0) / steps
        step = np.where(step > 0, step, self.dtype(1))
        return np.rint(carried / step) * step / self.cast(scale)

    def stored(self, x: NDArray, precision: int) -> NDArray:
        """A result, as its precision can hold it."""
        return self.cast(rounded(x, precision)) if self.naive else x


FLOAT64 = Arithmetic()


def swap(x: NDArray) -> NDArray:
    """The transpose of each matrix."""
    return np.swapaxes(x, -1, -2)
