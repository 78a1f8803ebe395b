"""Arithmetic and random numbers that give the same bits on every machine.

The vectors are committed and `generate.py --check` compares bytes. BLAS, NumPy's reductions, its
SIMD exp/log and its random generators may all differ between processors or versions; sums,
products, quotients and roots of single elements may not (IEEE 754). So everything below is made of
those, in a stated order.

exp and tanh: eq. 16, 18 of docs/math.md.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_LN2_HIGH = 6.93147180369123816490e-01  # 32 leading bits of ln 2: k * _LN2_HIGH is exact
_LN2_LOW = 1.90821492927058770002e-10


def exp(x: Array) -> Array:
    """e^x by x = k ln 2 + r, |r| <= ln 2 / 2, and a Taylor polynomial; the dtype of `x`."""
    wide = np.asarray(x, np.float64)
    clipped = np.clip(np.where(np.isnan(wide), 0.0, wide), -746.0, 710.0)
    k = np.rint(clipped / (_LN2_HIGH + _LN2_LOW))
    r = (clipped - k * _LN2_HIGH) - k * _LN2_LOW
    polynomial = np.ones_like(r)
    for n in range(14, 0, -1):
        polynomial = 1.0 + polynomial * r / n
    with np.errstate(over="ignore", under="ignore"):
        # Two steps, because 2^k alone may leave the range of float64 where e^x does not.
        result = np.ldexp(
            np.ldexp(polynomial, k.astype(np.int64) // 2),
            k.astype(np.int64) - k.astype(np.int64) // 2,
        )
        result = np.where(np.isnan(wide), np.nan, np.where(wide == -np.inf, 0.0, result))
        return result.astype(np.asarray(x).dtype)


def log(x: Array) -> Array:
    """ln x by x = 2^k m, 1/sqrt 2 <= m < sqrt 2, and the series of artanh((m - 1) / (m + 1))."""
    wide = np.asarray(x, np.float64)
    regular = np.isfinite(wide) & (wide > 0)
    m, k = np.frexp(np.where(regular, wide, 1.0))
    low = m < 0.7071067811865476
    m, k = np.where(low, 2 * m, m), k - low
    t = (m - 1) / (m + 1)
    series = np.zeros_like(t)
    for n in range(25, 0, -2):
        series = 1.0 / n + series * (t * t)
    value = k * _LN2_HIGH + (2 * t * series + k * _LN2_LOW)
    value = np.where(
        wide == 0, -np.inf, np.where(wide == np.inf, np.inf, np.where(regular, value, np.nan))
    )
    return value.astype(np.asarray(x).dtype)


def tanh(x: Array) -> Array:
    """tanh x to an absolute error of a few 1e-16: what softcap * tanh(S / softcap) needs."""
    wide = np.asarray(x, np.float64)
    e = exp(-2.0 * np.abs(wide))
    return (np.copysign(1.0, wide) * ((1.0 - e) / (1.0 + e))).astype(np.asarray(x).dtype)


def total(x: Array, axis: int, order: NDArray[np.intp] | None = None) -> Array:
    """Sum along `axis`, one term after the other, keeping the axis with size 1."""
    moved = np.moveaxis(x, axis, 0)
    result = np.zeros(moved.shape[1:], x.dtype)
    for i in range(len(moved)) if order is None else order:
        result = result + moved[i]
    return np.expand_dims(result, axis)


def matmul(
    a: Array,
    b: Array,
    order: NDArray[np.intp] | None = None,
    keep: NDArray[np.bool_] | None = None,
) -> Array:
    """a[..., n, k] b[..., k, m], one k after the other; all rounded to the dtype of `a`.

    Terms with keep[..., n, k] false are left out, whatever they hold: 0 * NaN would be NaN.
    """
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    result = np.zeros((*shape, a.shape[-2], b.shape[-1]), a.dtype)
    for k in range(a.shape[-1]) if order is None else order:
        term = a[..., :, k, None] * b[..., None, k, :]
        if keep is not None:
            term = np.where(keep[..., :, k, None], term, a.dtype.type(0))
        result = result + term
    return result


def _words(name: str, count: int) -> NDArray[np.uint64]:
    """`count` 64-bit numbers that depend on `name` alone (splitmix64 started from a hash of it)."""
    start = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers in [0, 1)."""
    count = int(np.prod(shape, dtype=np.int64))
    return ((_words(name, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def normal(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Bell-shaped numbers of mean 0 and variance 1: the sum of four 16-bit uniforms, centred."""
    words = _words(name, int(np.prod(shape, dtype=np.int64)))
    fields = sum(
        ((words >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.float64) + 0.5
        for s in (0, 16, 32, 48)
    )
    return ((np.asarray(fields) / 65536.0 - 2.0) * 3.0**0.5).reshape(shape)


def permutation(name: str, n: int) -> NDArray[np.intp]:
    """A shuffled range(n)."""
    return np.argsort(_words(name, n), kind="stable")
