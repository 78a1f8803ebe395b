"""O = softmax(S) V and logsumexp, as in mfa.h (eq. 1, 2, 7 to 9, 19, 27 of docs/math.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import portable
from .arithmetic import FLOAT64, Arithmetic, swap
from .problem import Operand, Problem
from .visibility import bias


@dataclass(frozen=True)
class Scores:
    """S [batch, heads, rows_q, rows_k], with -infinity where a key is masked out."""

    raw: NDArray
    """softmax_scale * Q K^T"""
    slope: NDArray
    """d(capped) / d(raw): 1 without softcap"""
    final: NDArray
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Forward:
    output: NDArray
    logsumexp: NDArray
    """[batch, heads, rows_q, 1]"""
    scores: Scores


def per_query_head(x: NDArray, group: int) -> NDArray:
    """Key or value heads repeated for the query heads that share them."""
    return np.repeat(x, group, axis=1)


def row_scale(value: Operand, group: int) -> NDArray:
    """The scales of V's rows, to multiply P with: [batch, heads, 1, rows of key], or a single 1."""
    if value.row_scale is None:
        return np.ones((1, 1, 1, 1))
    return swap(per_query_head(value.row_scale, group))


def scores(problem: Problem, a: Arithmetic = FLOAT64) -> Scores:
    options = problem.options
    q = a.operand(problem.query)
    k = per_query_head(a.operand(problem.key), problem.group)
    batch, heads, rows_q, _ = q.shape
    added, visible = bias(options, batch, heads, rows_q, k.shape[2])
    raw = a.cast(problem.scale) * a.matmul(q, swap(k))
    capped, slope = raw, np.ones_like(raw)
    if options.softcap > 0:
        t = portable.tanh(raw / a.cast(options.softcap))
        capped, slope = a.cast(options.softcap) * t, 1 - t * t
    final = np.where(visible, capped + a.cast(added), a.cast(-np.inf))
    return Scores(raw, slope, final, visible)


def forward(problem: Problem, a: Arithmetic = FLOAT64) -> Forward:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        s = scores(problem, a)
        v = per_query_head(a.operand(problem.value), problem.group)
        highest = np.max(s.final, axis=-1, keepdims=True, initial=-np.inf)
        highest = a.cast(np.where(highest == -np.inf, 0.0, highest))
        if problem.options.sinks is not None:
            # The largest of the exponents only where it must be, beside finite scores of -1e38.
            sink = a.cast(problem.options.sinks[None, :, None, None])
            highest = np.where(sink - highest > 80, sink, highest)
        p = a.exponential(s.final - highest, problem.value.precision, problem.options.compute)
        z = a.total(p, -1)
        if problem.options.sinks is not None:
            z = z + portable.exp(a.cast(problem.options.sinks[None, :, None, None]) - highest)
        scale = row_scale(problem.value, problem.group)
        weights = a.weights(p, problem.value.precision, scale, problem.options.compute)
        o = a.matmul(weights, v, keep=s.visible)
        empty = ~s.visible.any(axis=-1, keepdims=True)
        output = np.where(empty, a.cast(0), o / z)
        return Forward(a.stored(output, problem.output_precision), highest + portable.log(z), s)
