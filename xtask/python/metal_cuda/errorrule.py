"""The error that a kernel may have against float64 (eq. 55 of docs/math.md), at sizes of real use.

The rule and every term of it are those of tests/conformance/reference/errorrule.py, over blocks of
rows and with arrays of NumPy or CuPy; a test holds the two together. All rows, heads and keys
count. `kept` is 0: what is expected is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import sums
from .formulas import (
    STEPS,
    Arithmetic,
    Operands,
    Piece,
    Results,
    Scores,
    add_to_mask,
    attention,
    pieces,
    scores,
)
from .storage import DEVIATION, FP32, INTEGERS, ROUNDING, UNIT

Array = Any

FORWARD_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
ORDERS = (0, 1, 2, 3)
_U2 = ROUNDING**2


@dataclass(frozen=True)
class Norms:
    max: float
    """Of all elements."""
    rms: float
    """The largest root mean square of a head."""


@dataclass(frozen=True)
class Bound:
    """What an error may be: factor * the larger of naive and noise, in each norm."""

    factor: float
    naive: Norms
    noise: Norms

    @property
    def max(self) -> float:
        return self.factor * max(self.naive.max, self.noise.max)

    @property
    def rms(self) -> float:
        return self.factor * max(self.naive.rms, self.noise.rms)


def _by_head(x: Array) -> Array:
    """[batch, heads, rows, columns]; sinks have heads alone."""
    return x.reshape(1, -1, 1, 1) if x.ndim == 1 else x


def norms(xp: Any, error: Array, expected: Array) -> Norms:
    """Both norms of an error, where `expected` is finite."""
    error, counted = _by_head(error), xp.isfinite(_by_head(expected))
    size = xp.where(counted, xp.abs(error), 0.0)
    squares = (size**2).sum(axis=(2, 3)) / xp.maximum(counted.sum(axis=(2, 3)), 1)
    return Norms(float(size.max()), float(xp.sqrt(squares).max()))


def few_rows(xp: Any, variance: Array, expected: Array) -> Norms:
    """What the errors of few rows may reach, given the variance of each element.

    Three standard deviations of the worst element; for a head 1 + 8/n variances of n rows that
    matter: (sum of variances)^2 / sum of squared variances of its rows.
    """
    counted = xp.isfinite(_by_head(expected))
    variance = xp.where(counted, _by_head(variance), 0.0)
    rows = variance.sum(axis=3)
    whole, squares = rows.sum(axis=2), (rows**2).sum(axis=2)
    matter = xp.where(squares > 0, whole**2 / xp.where(squares > 0, squares, 1.0), 1.0)
    mean = whole / xp.maximum(counted.sum(axis=(2, 3)), 1)
    return Norms(3 * float(xp.sqrt(variance.max())), float(xp.sqrt(mean * (1 + 8 / matter)).max()))


def bounds(
    xp: Any,
    of: Operands,
    expected: dict[str, Array],
    result: Callable[[Results, str], Array],
) -> dict[str, Bound]:
    """Of each role in `expected`; `result` gives a role of an evaluation."""
    naive = dict.fromkeys(expected, Norms(0.0, 0.0))
    for order in ORDERS:
        found = attention(xp, of, Arithmetic(xp, True, order))
        for role, wanted in expected.items():
            finite = xp.where(xp.isfinite(wanted), wanted, 0.0)
            error = norms(xp, xp.nan_to_num(result(found, role) - finite), wanted)
            before = naive[role]
            naive[role] = Norms(max(before.max, error.max), max(before.rms, error.rms))
    variances = noise(xp, of)
    return {
        role: Bound(
            FORWARD_FACTOR if role in ("output", "logsumexp") else GRADIENT_FACTOR,
            naive[role],
            few_rows(xp, variances[role.removeprefix("grad_")], wanted),
        )
        for role, wanted in expected.items()
    }


# MARK: Noise


def noise(xp: Any, of: Operands) -> dict[str, Array]:
    """Variances of the naive results: every rounding with its own, added and propagated."""
    return _Noise(xp, of).variances()


def _rounded(x: Array, precision: int) -> Array:
    """The variance of a computed factor that is rounded beside a stored one."""
    return (x * (UNIT.get(precision, UNIT[FP32]) * DEVIATION)) ** 2


def _clean(xp: Any, x: Array) -> Array:
    """Without NaN and infinities: elements that they reach are not measured."""
    return xp.where(xp.isfinite(x), x, 0.0)


class _Noise:
    def __init__(self, xp: Any, of: Operands) -> None:
        self.xp, self.of, self.a = xp, of, Arithmetic(xp)
        self.exact = attention(xp, _forward_only(of))
        self.q, self.k, self.v = (_clean(xp, x.real) for x in (of.query, of.key, of.value))
        self.variance = {}
        for name, made in (("q", of.query), ("k", of.key), ("v", of.value)):
            self.variance[name] = None if made.deviation is None else made.deviation**2
        batches, heads, rows = self.q.shape[:3]
        self.output = xp.zeros(self.exact.output.shape)
        self.logsumexp = xp.zeros(self.exact.logsumexp.shape)
        self.query = xp.zeros(self.q.shape)
        self.d = xp.zeros((batches, heads, rows, 1))
        # Of the query heads of a key head together.
        self.key, self.value = xp.zeros(self.k.shape), xp.zeros(self.v.shape)
        mask = of.options.mask
        has_mask = mask is not None and mask.dtype != xp.bool_
        self.mask = xp.zeros(mask.shape) if has_mask else None
        self.sinks = None if of.options.sinks is None else xp.zeros(heads)
        self.state: tuple[sums.Squares, sums.Squares] | None = None

    def variances(self) -> dict[str, Array]:
        last: Piece | None = None
        for piece in pieces(self.xp, self.of):
            if len(piece.keys) == 0:
                # L is the sink, rounded.
                some = self.exact.logsumexp[piece.batch, piece.heads][:, piece.own]
                some = _clean(self.xp, some)
                self.logsumexp[piece.batch, piece.heads][:, piece.own] = _U2 * (some**2 + 1)
                continue
            if last is not None and self._other(last, piece):
                self._sums_end(last)
            self._add(piece)
            last = piece
        if last is not None:
            self._sums_end(last)
        result = {"output": self.output, "logsumexp": self.logsumexp}
        if self.of.grad_output is None:
            return result
        result |= {"query": self.query, "key": self.key, "value": self.value, "d_values": self.d}
        result |= {} if self.mask is None else {"mask": self.mask}
        return result | ({} if self.sinks is None else {"sinks": self.sinks})

    @staticmethod
    def _other(a: Piece, b: Piece) -> bool:
        return (a.sequence, a.key_head) != (b.sequence, b.key_head)

    def _add(self, piece: Piece) -> None:
        xp, of, a = self.xp, self.of, self.a
        b, some, own = piece.batch, piece.heads, piece.own

        def keys(x: Array | None) -> Array | None:
            return None if x is None else x[b, piece.key_head][piece.theirs]

        q, k, v = self.q[b, some][:, own], keys(self.k), keys(self.v)
        q_own = None if self.variance["q"] is None else self.variance["q"][b, some][:, own]
        k_own, v_own = keys(self.variance["k"]), keys(self.variance["v"])
        s = scores(a, q, k, of.options, piece)
        raw, final = (_clean(xp, xp.where(s.shown, x, 0.0)) for x in (s.raw, s.final))
        slope = 1.0 if s.slope is None else s.slope
        with_infinities = self.exact.logsumexp[b, some][:, own]
        ell, out = _clean(xp, with_infinities), self.exact.output[b, some][:, own]
        some_key = s.shown & xp.isfinite(with_infinities)
        p = xp.where(some_key, xp.exp(xp.minimum(final - ell, 0.0)), 0.0)
        # Of S: the sum over columns, its product with the scale, the sum with the bias; then exp(S)
        # once. Relative to P.
        dots = _U2 * sums.squares(xp, q, k.T)
        if k_own is not None:
            dots = dots + q**2 @ k_own.T
        if q_own is not None:
            dots = dots + q_own @ (k**2).T
        relative = (of.options.scale * slope) ** 2 * dots
        relative = relative + _U2 * ((slope * raw) ** 2 + final**2 + 1)

        moved = p**2 * relative
        normaliser = _U2 * sums.squares(xp, p, xp.ones((p.shape[2], 1)))
        centred = moved @ v**2 - 2 * out * (moved @ v)
        centred = centred + out**2 * moved.sum(axis=-1, keepdims=True)
        inputs = self._weights(piece, s, p) @ v**2
        if v_own is not None:
            inputs = inputs + p**2 @ v_own
        in_sums = _U2 * sums.squares(xp, p, v) + normaliser * out**2
        self.output[b, some][:, own] = (
            xp.maximum(centred, 0.0)
            + inputs
            + in_sums
            + _rounded(out, of.precisions.output)
            + _U2 * out**2
        )
        self.logsumexp[b, some][:, own] = (
            moved.sum(axis=-1, keepdims=True) + normaliser + _U2 * (ell**2 + 1)
        )
        if of.grad_output is not None:
            # L is given, rounded: unlike in forward, an error of S is not divided out.
            relative = relative + _U2 * ell**2
            self._add_backward(piece, s, p, relative, (q, k, v), (q_own, k_own, v_own))

    def _weights(self, piece: Piece, s: Scores, p: Array) -> Array:
        """Of P as it enters the product with V."""
        xp, precision = self.xp, self.of.precisions.value
        if precision not in INTEGERS:
            return _rounded(p, precision)
        scale = xp.ones(1)
        if self.of.value.row_scale is not None:
            scale = self.of.value.row_scale[piece.batch, piece.key_head][piece.theirs]
        top = xp.abs(p * scale).max(axis=-1, keepdims=True)
        return xp.where(s.shown, (top / xp.abs(scale) * (0.5 / STEPS)) ** 2 / 3, 0.0)

    def _add_backward(
        self,
        piece: Piece,
        s: Scores,
        p: Array,
        relative: Array,
        operands: tuple[Array, ...],
        own_noise: tuple[Array | None, ...],
    ) -> None:
        xp, of = self.xp, self.of
        (q, k, v), (q_own, k_own, v_own) = operands, own_noise
        b, some, own = piece.batch, piece.heads, piece.own
        do = _clean(xp, of.grad_output[b, some][:, own])
        dp = xp.where(s.shown, do @ v.T, 0.0)
        dp_own = _U2 * sums.squares(xp, do, v.T)
        if v_own is not None:
            dp_own = dp_own + do**2 @ v_own.T
        dp_own = xp.where(s.shown, dp_own, 0.0)
        d = (p * dp).sum(axis=-1, keepdims=True)
        if of.output is not None:
            given = xp.where(s.any_shown, do * _clean(xp, of.output[b, some][:, own]), 0.0)
            # That O was rounded before it was given is not the driver's doing, but moves D.
            off = (given.sum(axis=-1, keepdims=True) - d) ** 2
            d_own = _U2 * sums.squares(xp, given, xp.ones((given.shape[2], 1))) + off
        else:
            terms = p * dp
            d_own = (terms**2 * relative + p**2 * dp_own).sum(axis=-1, keepdims=True)
            d_own = d_own + _U2 * sums.squares(xp, terms, xp.ones((p.shape[2], 1)))
        ds = p * (dp - d)
        ds_own = ds**2 * (relative + _U2) + p**2 * (dp_own + d_own)
        slope = 1.0 if s.slope is None else s.slope
        dx, dx_own, scale = ds * slope, ds_own * slope**2, of.options.scale**2

        in_query = (dx_own + _rounded(dx, of.precisions.key)) @ k**2
        if k_own is not None:
            in_query = in_query + dx**2 @ k_own
        self.query[b, some][:, own] = scale * (in_query + _U2 * sums.squares(xp, dx, k))
        self.d[b, some][:, own] = d_own

        in_key = _over_rows(dx_own + _rounded(dx, of.precisions.query), q**2)
        if q_own is not None:
            in_key = in_key + _over_rows(dx**2, q_own)
        in_value = _over_rows(p**2 * relative + _rounded(p, of.precisions.grad_output), do**2)
        self.key[b, piece.key_head][piece.theirs] += scale * in_key
        self.value[b, piece.key_head][piece.theirs] += in_value
        if self.state is None:
            of_key, of_value = ((len(p), *x.shape) for x in (k, v))
            self.state = (sums.Squares(xp, of_key), sums.Squares(xp, of_value))
        self.state[0].add(dx.transpose(0, 2, 1), q)
        self.state[1].add(p.transpose(0, 2, 1), do)
        if self.mask is not None:
            add_to_mask(self.a, self.mask, piece, ds_own)
        if self.sinks is not None:
            sink = of.options.sinks[some][:, None, None]
            ell = _clean(xp, self.exact.logsumexp[b, some][:, own])
            share = xp.exp(xp.minimum(sink - ell, 0.0))
            of_share = _U2 * (sink**2 + ell**2 + 1)
            self.sinks[some] += (share**2 * (d_own + d**2 * of_share)).sum(axis=(1, 2))

    def _sums_end(self, piece: Piece) -> None:
        """The sums over the rows of a sequence and head are complete."""
        if self.state is None:
            return
        key, value = self.state
        scale, at = self.of.options.scale**2, (piece.batch, piece.key_head)
        self.key[at][piece.theirs] += scale * _U2 * key.squares.sum(axis=0)
        self.value[at][piece.theirs] += _U2 * value.squares.sum(axis=0)
        self.state = None


def _over_rows(a: Array, b: Array) -> Array:
    """The sum over heads and rows: a[g, n, m], b[g, n, d] to [m, d]."""
    return a.reshape(-1, a.shape[2]).T @ b.reshape(-1, b.shape[2])


def _forward_only(of: Operands) -> Operands:
    return Operands(of.query, of.key, of.value, of.options, of.precisions)
