"""Gradients of forward(), from dO and the logsumexp L of forward (eq. 22 to 31).

    P_ij = exp(S_ij - L_i)        dV_j = sum_i P_ij dO_i         dP_ij = dO_i . V_j
    D_i  = sum_j P_ij dP_ij       dS_ij = P_ij (dP_ij - D_i)     (= dO_i . O_i)
    dmask = dS                    dsink = - sum_i exp(sink - L_i) D_i
    dX_ij = dS_ij (1 - tanh^2)    (softcap; else dX = dS)
    dQ_i = scale sum_j dX_ij K_j  dK_j = scale sum_i dX_ij Q_i

Rounding counts as identity (straight-through). The clip option zeroes, in the basis in which an
operand is stored, the elements that sit at the end of the quantized range: dx = H (inside * (H dx))
when it is rotated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import portable
from .arithmetic import FLOAT64, Arithmetic, swap
from .forward import per_query_head, scores
from .problem import Operand, Problem
from .quantize import hadamard
from .visibility import mask_index


@dataclass(frozen=True)
class Incoming:
    """What backward is given beside the operands."""

    grad_output: Operand
    logsumexp: NDArray
    output: NDArray | None = None
    """Without it, D is computed from P and dP."""
    clip: bool = False


@dataclass(frozen=True)
class Gradients:
    query: NDArray
    key: NDArray
    value: NDArray
    d_values: NDArray
    mask: NDArray | None
    sinks: NDArray | None


def per_key_head(x: NDArray, group: int, a: Arithmetic = FLOAT64) -> NDArray:
    """The sum over the query heads that share a key head."""
    batch, heads, rows, columns = x.shape
    return a.total(x.reshape(batch, heads // max(group, 1), group, rows, columns), 2)[:, :, 0]


def _clipped(gradient: NDArray, operand: Operand, clip: bool, a: Arithmetic) -> NDArray:
    if not clip or operand.inside is None:
        return gradient
    if not operand.rotated:
        return np.where(operand.inside, gradient, a.cast(0))
    stored_basis = hadamard(gradient.astype(np.float64))
    return a.cast(hadamard(np.where(operand.inside, stored_basis, 0.0)))


def mask_gradient(ds: NDArray, problem: Problem) -> NDArray | None:
    """dS summed over the dimensions in which the mask is broadcast."""
    mask = problem.options.mask
    if mask is None or mask.dtype == np.bool_:
        return None
    batch, heads, rows_q, rows_k = ds.shape
    index = mask_index(mask.shape, problem.options, rows_q, rows_k, batch, heads)
    result = np.zeros(mask.shape, ds.dtype)
    # Pairs of different sequences have dS = 0: their meaningless index adds nothing.
    np.add.at(result, tuple(np.broadcast_arrays(*index)), ds)
    return result


def backward(problem: Problem, incoming: Incoming, a: Arithmetic = FLOAT64) -> Gradients:
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        s = scores(problem, a)
        group, scale = problem.group, a.cast(problem.scale)
        q = a.operand(problem.query)
        k = per_query_head(a.operand(problem.key), group)
        v = per_query_head(a.operand(problem.value), group)
        do = a.cast(incoming.grad_output.values)
        logsumexp = a.cast(incoming.logsumexp)

        p = np.where(s.visible, portable.exp(s.final - logsumexp), a.cast(0))
        dp = np.where(s.visible, a.matmul(do, swap(v)), a.cast(0))
        if incoming.output is not None:
            # Rows without a key have O = 0, so D = 0 whatever dO holds.
            some = s.visible.any(axis=-1, keepdims=True)
            d = a.total(np.where(some, do * a.cast(incoming.output), a.cast(0)), -1)
        else:
            d = a.total(p * dp, -1)
        ds = np.where(s.visible, p * (dp - d), a.cast(0))
        dx = np.where(s.visible, ds * s.slope, a.cast(0))

        seen_by = swap(s.visible)
        dq = scale * a.matmul(a.beside(dx, problem.key.precision), k, keep=s.visible)
        dk = scale * a.matmul(a.beside(swap(dx), problem.query.precision), q, keep=seen_by)
        dv = a.matmul(a.beside(swap(p), incoming.grad_output.precision), do, keep=seen_by)

        sinks = None
        if problem.options.sinks is not None:
            sink = a.cast(problem.options.sinks[None, :, None, None])
            terms = portable.exp(sink - logsumexp) * d
            sinks = -a.total(a.total(terms, 2), 0)
        return Gradients(
            query=_clipped(dq, problem.query, incoming.clip, a),
            key=_clipped(per_key_head(dk, group, a), problem.key, incoming.clip, a),
            value=_clipped(per_key_head(dv, group, a), problem.value, incoming.clip, a),
            d_values=d,
            mask=mask_gradient(ds, problem),
            sinks=sinks,
        )
