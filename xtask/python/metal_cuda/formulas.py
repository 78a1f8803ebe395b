"""Attention as plain formulas over blocks of rows, for sizes beyond the conformance reference.

`xp` is CuPy or NumPy. In float64 it is what results are held against (a test holds it against
tests/conformance/reference); in float32
it is the naive evaluation that the error rule allows twice the error of (three times for
gradients): every product
and sum in FP32, and P and dS rounded to the precision of the stored factor beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .storage import BF16, FP16, FP32, rounded

Array = Any

# Elements of S that are held at once.
BLOCK = 1 << 25


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
class Precisions:
    query: int = FP32
    key: int = FP32
    value: int = FP32
    output: int = FP32
    grad_output: int = FP32


@dataclass
class Naive:
    """Arithmetic in FP32; keys and columns in an order of their own."""

    precisions: Precisions
    order: int = 0


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
    rows: slice
    """Within the sequence."""
    first_q: int
    keys: int
    first_k: int
    shift: int


def pieces(
    options: Options, batches: int, key_heads: int, group: int, rows: int, keys: int
) -> Iterator[Piece]:
    sequences = options.lengths or [(rows, n) for n in options.key_lengths or [keys] * batches]
    first_q = first_k = 0
    for sequence, (n, m) in enumerate(sequences):
        batch = 0 if options.lengths else sequence
        step = max(1, BLOCK // max(group * m, 1))
        shift = m - n if options.bottom_right else 0
        for key_head in range(key_heads):
            for begin in range(0, n, step):
                yield Piece(
                    sequence,
                    batch,
                    key_head,
                    slice(begin, min(begin + step, n)),
                    first_q,
                    m,
                    first_k,
                    shift,
                )
        if options.lengths:
            first_q, first_k = first_q + n, first_k + m


def over_rows(a: Array, b: Array) -> Array:
    """The sum over heads and rows: [g, n, m], [g, n, d] to [m, d]."""
    return a.reshape(-1, a.shape[2]).T @ b.reshape(-1, b.shape[2])


def attention(
    xp: Any,
    q: Array,
    k: Array,
    v: Array,
    options: Options,
    grad_output: Array | None = None,
    given: Results | None = None,
    naive: Naive | None = None,
) -> Results:
    """O and L; with `grad_output` also the gradients, from the L of `given`.

    q, k, v are float64 [batch, heads, rows, columns]; results are float64.
    """
    batches, heads, rows, columns = q.shape
    key_heads, keys = k.shape[1], k.shape[2]
    group = heads // key_heads
    kind = xp.float32 if naive else xp.float64
    p_of = naive.precisions if naive else Precisions()

    def beside(x: Array, precision: int) -> Array:
        return rounded(xp, x, precision) if naive and precision in (FP16, BF16) else x

    column_order = key_order = None
    if naive and naive.order:
        generator = xp.random.RandomState(naive.order)
        column_order = generator.permutation(columns)
        q, k = q[..., column_order], k[..., column_order]

    output = xp.zeros((batches, heads, rows, v.shape[3]), xp.float64)
    logsumexp = xp.full((batches, heads, rows, 1), -xp.inf, xp.float64)
    backward = grad_output is not None
    gradients: dict[str, Array] = {}
    if backward:
        gradients = {
            "query": xp.zeros(q.shape, xp.float64),
            "key": xp.zeros(k.shape, kind),
            "value": xp.zeros(v.shape, kind),
            "d_values": xp.zeros((batches, heads, rows, 1), xp.float64),
        }
        if options.mask is not None and options.mask.dtype != xp.bool_:
            gradients["mask"] = xp.zeros(options.mask.shape, kind)
        if options.sinks is not None:
            gradients["sinks"] = xp.zeros((heads,), kind)

    for piece in pieces(options, batches, key_heads, group, rows, keys):
        b, n = piece.batch, piece.rows.stop - piece.rows.start
        own = slice(piece.first_q + piece.rows.start, piece.first_q + piece.rows.stop)
        theirs = slice(piece.first_k, piece.first_k + piece.keys)
        some = slice(piece.key_head * group, (piece.key_head + 1) * group)
        if piece.keys == 0:
            if options.sinks is not None:
                logsumexp[b, some, own, 0] = options.sinks[some][:, None]
            continue
        key_order = None
        if naive and naive.order:
            key_order = xp.random.RandomState(naive.order).permutation(piece.keys)
        qs = q[b, some, own].astype(kind)
        ks, vs = (
            k[b, piece.key_head, theirs].astype(kind),
            v[b, piece.key_head, theirs].astype(kind),
        )
        if key_order is not None:
            ks, vs = ks[key_order], vs[key_order]

        # S, and which of it counts.
        place = xp.arange(piece.rows.start, piece.rows.stop)[:, None] + piece.shift
        at = xp.arange(piece.keys)[None, :] if key_order is None else key_order[None, :]
        seen = xp.ones((n, piece.keys), xp.bool_)
        if options.causal:
            seen &= at <= place
        if options.window is not None:
            left, right = options.window
            if left >= 0:
                seen &= at >= place - left
            if right >= 0:
                seen &= at <= place + right
        s = kind(options.scale) * (qs @ ks.T)
        slope = None
        if options.softcap > 0:
            t = xp.tanh(s / kind(options.softcap))
            s, slope = kind(options.softcap) * t, 1 - t * t
        shown = xp.broadcast_to(seen, s.shape)
        if options.mask is not None:
            z = piece.sequence if options.mask.shape[0] > 1 else 0
            of_heads = options.mask[z, some] if options.mask.shape[1] > 1 else options.mask[z, :1]
            of_rows = of_heads[:, piece.rows] if options.mask.shape[2] > 1 else of_heads
            added = of_rows[:, :, : piece.keys] if options.mask.shape[3] > 1 else of_rows
            if key_order is not None and options.mask.shape[3] > 1:
                added = added[:, :, key_order]
            if options.mask.dtype == xp.bool_:
                shown = shown & added
            else:
                shown = shown & (added != -xp.inf)
                s = s + xp.where(added == -xp.inf, 0, added).astype(kind)
        if options.slopes is not None:
            z = piece.sequence if options.slopes.shape[0] > 1 else 0
            s = s - options.slopes[z, some].astype(kind)[:, None, None] * xp.abs(place - at).astype(
                kind
            )
        s = xp.where(shown, s, kind(-xp.inf))

        # O and L.
        top = s.max(axis=-1, keepdims=True)
        top = xp.where(xp.isinf(top), kind(0), top)
        p = xp.exp(s - top)
        z_sum = p.sum(axis=-1, keepdims=True)
        if options.sinks is not None:
            z_sum = z_sum + xp.exp(options.sinks[some].astype(kind)[:, None, None] - top)
        empty = ~shown.any(axis=-1, keepdims=True)
        safe = xp.where(z_sum == 0, kind(1), z_sum)
        o = xp.where(empty, kind(0), (beside(p, p_of.value) @ vs) / safe)
        output[b, some, own] = rounded(xp, o, p_of.output) if naive else o
        l_row = xp.where(z_sum == 0, kind(-xp.inf), top + xp.log(safe))
        logsumexp[b, some, own] = l_row
        if not backward:
            continue

        # Gradients, from the L that was given.
        l_given = (given or Results(output, logsumexp)).logsumexp[b, some, own].astype(kind)
        do = grad_output[b, some, own].astype(kind)
        live = shown & ~xp.isinf(l_given)
        p = xp.where(live, xp.exp(xp.where(live, s - l_given, kind(0))), kind(0))
        dp = do @ vs.T
        d = (p * dp).sum(axis=-1, keepdims=True)
        ds = p * (dp - d)
        dx = ds if slope is None else ds * slope
        scale = kind(options.scale)
        gradients["query"][b, some, own] = scale * (beside(dx, p_of.key) @ ks)
        dk = scale * over_rows(beside(dx, p_of.query), qs)
        dv = over_rows(beside(p, p_of.grad_output), do)
        if key_order is not None:
            back = xp.argsort(key_order)
            dk, dv, ds = dk[back], dv[back], ds[:, :, back]
        gradients["key"][b, piece.key_head, theirs] += dk
        gradients["value"][b, piece.key_head, theirs] += dv
        gradients["d_values"][b, some, own] = d
        if "mask" in gradients:
            shape = gradients["mask"].shape
            z = piece.sequence if shape[0] > 1 else 0
            part = ds if shape[1] > 1 else ds.sum(axis=0, keepdims=True)
            part = part if shape[2] > 1 else part.sum(axis=1, keepdims=True)
            at_heads = some if shape[1] > 1 else slice(0, 1)
            at_rows = piece.rows if shape[2] > 1 else slice(0, 1)
            gradients["mask"][z, at_heads, at_rows, : piece.keys] += part
        if options.sinks is not None:
            share = xp.exp(options.sinks[some].astype(kind)[:, None, None] - l_given)
            gradients["sinks"][some] -= xp.where(xp.isinf(l_given), 0, share * d).sum(axis=(1, 2))

    if column_order is not None:
        back = xp.argsort(column_order)
        for name in ("query", "key"):
            if name in gradients:
                gradients[name] = gradients[name][..., back]
    return Results(output, logsumexp, {name: x.astype(xp.float64) for name, x in gradients.items()})
