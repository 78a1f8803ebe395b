"""Stored elements: the precision codes of mfa.h, rounding to them, and bytes (eq. 38)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FP32, FP16, BF16, INT4, INT8, BOOL = 0, 1, 2, 4, 8, 16

NAMES = {"fp32": FP32, "fp16": FP16, "bf16": BF16, "int4": INT4, "int8": INT8, "bool": BOOL}
INTEGERS = (INT4, INT8)

# Half a unit in the last place of a number in [1, 2): the largest relative rounding error.
UNIT = {FP32: 2.0**-24, FP16: 2.0**-11, BF16: 2.0**-8 / 2}

# The standard deviation of a rounding, in UNITs of the number: uniform over one unit in the last
# place, whose size relative to the number depends on the mantissa; averaged over logarithmically
# uniform ones.
DEVIATION = float((8 * np.log(2.0)) ** -0.5)


def bits(precision: int) -> int:
    return {FP32: 32, FP16: 16, BF16: 16, INT4: 4, INT8: 8, BOOL: 8}[precision]


def _bf16_bits(x: NDArray) -> NDArray[np.uint16]:
    """Round half to even from float32; a NaN stays a (quiet) NaN."""
    word = np.asarray(x, np.float32).view(np.uint32)
    even = ((word >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    with np.errstate(over="ignore"):
        rounded_word = ((word + even) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded_word)


def elements(x: NDArray, precision: int) -> NDArray:
    """The stored elements of `x`, rounded half to even; INT4 still one to a byte."""
    with np.errstate(over="ignore"):
        if precision == FP32:
            return np.asarray(x, "<f4")
        if precision == FP16:
            return np.asarray(np.asarray(x, np.float32), "<f2")
        if precision == BF16:
            return _bf16_bits(np.asarray(x, np.float32)).astype("<u2")
        return np.asarray(x, np.uint8 if precision == BOOL else np.int8)


def rounded(x: NDArray, precision: int) -> NDArray[np.float64]:
    """`x` after a trip through storage in a floating-point precision."""
    stored = elements(x, precision)
    if precision == BF16:
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float64)


def pack_int4(n: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Element 2i of a flat array to the low nibble of byte i, element 2i + 1 to the high nibble."""
    nibbles = n.reshape(-1).astype(np.uint8) & np.uint8(0xF)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))


def unpack_int4(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of pack_int4()."""
    flat = packed.reshape(-1)
    nibbles = np.stack([flat & np.uint8(0xF), flat >> np.uint8(4)], axis=-1).reshape(-1)
    return ((nibbles ^ np.uint8(8)).astype(np.int8) - np.int8(8)).astype(np.int8)
