"""Attention as plain formulas over blocks of rows, for sizes beyond the conformance reference.

`xp` is CuPy or NumPy. In float64 it is what results are held against. In FP32 it is the naive
evaluation of the error rule (eq. 55 of docs/math.md; see errorrule.py): every product and every sum
rounded, sums one term after the other in an order of their own, P and dS rounded to the precision
of the stored factor beside them. Tests hold both against tests/conformance/reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import sums
from .storage import BF16, FP16, FP32, INTEGERS, Made, rounded

Array = Any

# Elements of S that are held at once.
BLOCK = 1 << 25
# Steps of P beside an integer V, in 15 bits (enum mfa_compute, eq. 50).
STEPS = 32767


@dataclass
class Options:
    scale: float
    causal: bool = False
    bottom_right: bool = False
    window: tuple[int, int] | None = None
    """Left, right; -1 is no limit."""
    softcap: float = 0.0
    mask: Array | None = None
    """Bool or float64 [batch or 1, heads or 1, rows or 1, keys]."""
    slopes: Array | None = None
    """[batch or 1, heads]"""
    sinks: Array | None = None
    """[heads]"""
    lengths: list[tuple[int, int]] | None = None
    """Packed sequences: rows of query and of key of each."""
    key_lengths: list[int] | None = None
    """Keys of each batch that count."""


@dataclass
class Operands:
    """What a call is given, and in which precisions."""

    query: Made
    key: Made
    value: Made
    options: Options
    precisions: Precisions
    grad_output: Array | None = None
    logsumexp: Array | None = None
    """The L that backward is given."""
    output: Array | None = None
    """The O that backward is given; without it D comes from P and dP."""


@dataclass
class Precisions:
    query: int = FP32
    key: int = FP32
    value: int = FP32
    output: int = FP32
    grad_output: int = FP32


@dataclass
class Results:
    output: Array
    logsumexp: Array
    gradients: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """Rows of one key head and sequence, and the keys that they may see."""

    sequence: int
    batch: int
    key_head: int
    heads: slice
    rows: Array
    """Within the sequence."""
    first_q: int
    keys: Array
    """Within the sequence."""
    first_k: int
    shift: int

    @property
    def own(self) -> Array:
        """Rows of the tensor."""
        return self.first_q + self.rows

    @property
    def theirs(self) -> Array:
        return self.first_k + self.keys


def order_of(n: int, order: int) -> np.ndarray:
    """The order in which n terms are summed; 0: first to last."""
    return np.random.RandomState(order).permutation(n) if order else np.arange(n)


def pieces(xp: Any, of: Operands, order: int = 0) -> Iterator[Piece]:
    """All rows and keys, with those of a sequence in an order."""
    options, (batches, heads, rows, _) = of.options, of.query.real.shape
    key_heads, keys = of.key.real.shape[1:3]
    group = heads // key_heads
    sequences = options.lengths or [(rows, n) for n in options.key_lengths or [keys] * batches]
    first_q = first_k = 0
    for sequence, (n, m) in enumerate(sequences):
        batch = 0 if options.lengths else sequence
        step = max(1, BLOCK // max(group * m, 1))
        of_rows, of_keys = xp.asarray(order_of(n, order)), xp.asarray(order_of(m, order))
        for key_head in range(key_heads):
            some = slice(key_head * group, (key_head + 1) * group)
            for begin in range(0, n, step):
                yield Piece(
                    sequence,
                    batch,
                    key_head,
                    some,
                    of_rows[begin : begin + step],
                    first_q,
                    of_keys,
                    first_k,
                    m - n if options.bottom_right else 0,
                )
        if options.lengths:
            first_q, first_k = first_q + n, first_k + m


@dataclass
class Arithmetic:
    """float64 with the library's sums, or FP32 with sums in order."""

    xp: Any
    naive: bool = False
    order: int = 0

    @property
    def kind(self) -> Any:
        return self.xp.float32 if self.naive else self.xp.float64

    def product(self, a: Array, b: Array, into: Array | None = None) -> Array:
        """A b, to which `into` is added (and is then changed)."""
        if self.naive:
            return sums.product(self.xp, a, b, into)
        result = a @ b
        if into is None:
            return result
        into += result
        return into

    def total(self, x: Array, into: Array | None = None) -> Array:
        """Sums of rows, with an axis of 1."""
        if self.naive:
            return sums.total(self.xp, x, into)
        result = x.sum(axis=-1, keepdims=True)
        if into is None:
            return result
        into += result
        return into

    def beside(self, x: Array, precision: int) -> Array:
        """A computed factor, rounded to the precision of the stored factor beside it."""
        return rounded(self.xp, x, precision) if self.naive and precision in (FP16, BF16) else x

    def weights(self, p: Array, precision: int, scale: Array) -> Array:
        """exp(S - max) as it enters the product with V, whose rows have scales [1 or keys]."""
        if not (self.naive and precision in INTEGERS):
            return self.beside(p, precision)
        xp = self.xp
        carried = p * scale
        step = xp.abs(carried).max(axis=-1, keepdims=True) / self.kind(STEPS)
        step = xp.where(step > 0, step, self.kind(1))
        return xp.rint(carried / step) * step / scale

    def operand(self, made: Made) -> Array:
        single = made.single if self.naive else None
        return (made.real if single is None else single).astype(self.kind)


@dataclass
class Scores:
    """S of a piece [heads, rows, keys], and which of it counts."""

    raw: Array
    slope: Array | None
    """d(capped) / d(raw), where there is a softcap."""
    final: Array
    """-infinity where a key is masked out."""
    shown: Array
    any_shown: Array
    """[heads, rows, 1]"""


def scores(a: Arithmetic, q: Array, k: Array, options: Options, piece: Piece) -> Scores:
    """Of the rows q[heads, rows, columns] and the keys k[keys, columns] of a piece."""
    xp, kind, some = a.xp, a.kind, piece.heads
    place = (piece.rows + piece.shift)[:, None]
    at = piece.keys[None, :]
    seen = xp.ones((len(piece.rows), len(piece.keys)), xp.bool_)
    if options.causal:
        seen &= at <= place
    if options.window is not None:
        left, right = options.window
        if left >= 0:
            seen &= at >= place - left
        if right >= 0:
            seen &= at <= place + right
    raw = kind(options.scale) * a.product(q, k.T)
    final, slope = raw, None
    if options.softcap > 0:
        t = xp.tanh(raw / kind(options.softcap))
        final, slope = kind(options.softcap) * t, 1 - t * t
    shown = xp.broadcast_to(seen, raw.shape)
    bias = None
    if options.mask is not None:
        z = piece.sequence if options.mask.shape[0] > 1 else 0
        mask = options.mask[z, some] if options.mask.shape[1] > 1 else options.mask[z, :1]
        mask = mask[:, piece.rows] if options.mask.shape[2] > 1 else mask
        mask = mask[:, :, piece.keys] if options.mask.shape[3] > 1 else mask
        if options.mask.dtype == xp.bool_:
            shown = shown & mask
        else:
            shown = shown & (mask != -xp.inf)
            bias = xp.where(mask == -xp.inf, 0, mask)
    if options.slopes is not None:
        z = piece.sequence if options.slopes.shape[0] > 1 else 0
        away = options.slopes[z, some][:, None, None] * xp.abs(place - at)
        bias = -away if bias is None else bias - away
    if bias is not None:
        final = final + bias.astype(kind)
    final = xp.where(shown, final, kind(-xp.inf))
    return Scores(raw, slope, final, shown, shown.any(axis=-1, keepdims=True))


def attention(xp: Any, of: Operands, a: Arithmetic | None = None) -> Results:
    """O and L; where dO is given also the gradients, from the L that is given. All float64."""
    a = a or Arithmetic(xp)
    kind, options, p_of = a.kind, of.options, of.precisions
    q, k, v = a.operand(of.query), a.operand(of.key), a.operand(of.value)
    batches, heads, rows = q.shape[:3]
    of_columns, of_results = (
        xp.asarray(order_of(x.shape[3], a.order)) for x in (of.query.real, of.value.real)
    )
    output = xp.zeros((batches, heads, rows, v.shape[3]), xp.float64)
    logsumexp = xp.full((batches, heads, rows, 1), -xp.inf, xp.float64)
    backward = _Backward(xp, of, a) if of.grad_output is not None else None

    for piece in pieces(xp, of, a.order):
        b, some, own = piece.batch, piece.heads, piece.own
        if len(piece.keys) == 0:
            if options.sinks is not None:
                logsumexp[b, some][:, own, 0] = options.sinks[some][:, None]
            continue
        ks, vs = (x[b, piece.key_head][piece.theirs] for x in (k, v))
        qs = q[b, some][:, own]
        s = scores(a, qs[:, :, of_columns], ks[:, of_columns], options, piece)

        top = s.final.max(axis=-1, keepdims=True)
        top = xp.where(xp.isinf(top), kind(0), top)
        p = xp.exp(s.final - top)
        z = a.total(p)
        if options.sinks is not None:
            z = z + xp.exp(options.sinks[some].astype(kind)[:, None, None] - top)
        safe = xp.where(z == 0, kind(1), z)
        scale = xp.ones(1, kind)
        if of.value.row_scale is not None:
            scale = of.value.row_scale[b, piece.key_head][piece.theirs].astype(kind)
        o = a.product(a.weights(p, p_of.value, scale), vs) / safe
        o = xp.where(s.any_shown, o, kind(0))
        output[b, some][:, own] = rounded(xp, o, p_of.output) if a.naive else o
        logsumexp[b, some][:, own] = xp.where(z == 0, kind(-xp.inf), top + xp.log(safe))
        if backward is not None:
            backward.add(piece, s, qs, ks, vs, of_results)
    return Results(output, logsumexp, {} if backward is None else backward.results())


class _Backward:
    """Gradients, summed over pieces: those of keys for each query head first."""

    def __init__(self, xp: Any, of: Operands, a: Arithmetic) -> None:
        self.xp, self.of, self.a = xp, of, a
        batches, heads, rows, columns = of.query.real.shape
        keys, results = of.key.real.shape[2], of.value.real.shape[3]
        self.query = xp.zeros((batches, heads, rows, columns))
        self.d = xp.zeros((batches, heads, rows, 1))
        self.key = xp.zeros((batches, heads, keys, columns), a.kind)
        self.value = xp.zeros((batches, heads, keys, results), a.kind)
        mask = of.options.mask
        has_mask = mask is not None and mask.dtype != xp.bool_
        self.mask = xp.zeros(mask.shape, a.kind) if has_mask else None
        self.sinks = None if of.options.sinks is None else xp.zeros((heads, 1, 1), a.kind)
        self.state: tuple[Any, Array, Array] | None = None
        """Sums of the keys of a piece's sequence and head, in the order of the keys."""

    def add(self, piece: Piece, s: Scores, q: Array, k: Array, v: Array, of_results: Array) -> None:
        xp, of, a, kind = self.xp, self.of, self.a, self.a.kind
        p_of, scale = of.precisions, a.kind(of.options.scale)
        b, some, own = piece.batch, piece.heads, piece.own
        do = of.grad_output[b, some][:, own].astype(kind)
        given = of.logsumexp[b, some][:, own].astype(kind)
        live = s.shown & ~xp.isinf(given)
        p = xp.where(live, xp.exp(xp.where(live, s.final - given, kind(0))), kind(0))
        dp = a.product(do[:, :, of_results], v[:, of_results].T)
        if of.output is None:
            d = a.total(p * dp)
        else:
            d = a.total((do * of.output[b, some][:, own].astype(kind))[:, :, of_results])
            d = xp.where(s.any_shown, d, kind(0))
        ds = p * (dp - d)
        dx = ds if s.slope is None else ds * s.slope
        self.query[b, some][:, own] = scale * a.product(a.beside(dx, p_of.key), k)
        self.d[b, some][:, own] = d
        # Rows after rows: the sums of a sequence and head go on.
        where = (piece.sequence, piece.key_head)
        if self.state is None or self.state[0] != where:
            self.state = (where, *(xp.zeros((len(ds), *x.shape), kind) for x in (k, v)))
        _, key, value = self.state
        a.product(a.beside(dx, p_of.query).transpose(0, 2, 1), q, key)
        a.product(a.beside(p, p_of.grad_output).transpose(0, 2, 1), do, value)
        self.key[b, some][:, piece.theirs] = scale * key
        self.value[b, some][:, piece.theirs] = value
        if self.mask is not None:
            add_to_mask(a, self.mask, piece, ds)
        if self.sinks is not None:
            share = xp.exp(of.options.sinks[some].astype(kind)[:, None, None] - given)
            terms = xp.where(xp.isinf(given), kind(0), share * d)
            a.total(terms.transpose(0, 2, 1), self.sinks[some])

    def results(self) -> dict[str, Array]:
        found = {
            "query": self.query,
            "key": self._shared(self.key),
            "value": self._shared(self.value),
            "d_values": self.d,
        }
        if self.mask is not None:
            found["mask"] = self.mask
        if self.sinks is not None:
            found["sinks"] = -self.sinks[:, 0, 0]
        return {name: x.astype(self.xp.float64) for name, x in found.items()}

    def _shared(self, x: Array) -> Array:
        """The sum over the query heads that share a key head."""
        group = x.shape[1] // self.of.key.real.shape[1]
        result = x[:, ::group].copy()
        for one in range(1, group):
            result += x[:, one::group]
        return result


def add_to_mask(a: Arithmetic, total: Array, piece: Piece, x: Array) -> None:
    """Adds x[heads, rows, keys] of a piece to the mask's gradient, in its dimensions that are 1."""
    xp = a.xp
    z = piece.sequence if total.shape[0] > 1 else 0
    part = total[z, piece.heads] if total.shape[1] > 1 else total[z, :1]
    if total.shape[2] == 1:
        if len(part) == 1:
            x = x.reshape(1, -1, x.shape[2])
        so_far = xp.ascontiguousarray(part[:, :, piece.keys])
        ones = xp.ones((len(x), 1, x.shape[1]), x.dtype)
        part[:, :, piece.keys] = a.product(ones, x, so_far)
        return
    at = xp.ix_(piece.rows, piece.keys)
    for head, of_head in enumerate(x):
        part[head if len(part) > 1 else 0][at] += of_head
