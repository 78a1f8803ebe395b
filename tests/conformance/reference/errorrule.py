"""How far a driver may be from float64.

Rule: |driver - float64| <= factor * max(naive, noise), with factor 2 for O and logsumexp, 3 for gradients and D,
in two norms that must both hold:

    max   the largest absolute error of any element
    rms   the largest root-mean-square error of any head (so that one bad head is not averaged away)

*naive* is the largest error of the plain formula in the operands' precision (see arithmetic.py) over a few orders
of summation: the formula names no order, and one order can be lucky.

*noise* is the error that the same formula is expected to make if every stored intermediate is rounded just once,
added in quadrature. It is there because a small tensor's naive error can be zero by luck (one key: P = 1 exactly), and
no multiple of zero allows for the one or two units in the last place that another order of roundings costs. It is a
few 1e-7 of the sum of the absolute terms in FP32.

Elements whose expected value is NaN must be NaN, infinite ones must be equal; they are left out of both norms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from . import backward as backward_module
from .arithmetic import Arithmetic, swap
from .backward import Gradients, Incoming, backward
from .forward import Forward, forward, per_query_head, scores
from .precision import FP32, INTEGERS, UNIT
from .problem import FAST, Problem

FORWARD_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
ORDERS = tuple(Arithmetic(np.float32, order) for order in ("", "order 1", "order 2", "order 3"))
_U = UNIT[FP32]
_EXP = 2.0  # units a good single-precision exp costs


@dataclass(frozen=True)
class Norms:
    max: float
    rms: float


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


def norms(error: NDArray, expected: NDArray) -> Norms:
    """Both norms of an error [batch, heads, rows, columns] over the finite elements of `expected`."""
    counted = np.isfinite(expected)
    size = np.where(counted, np.abs(error, dtype=np.float64), 0.0)
    squares, counts = (size**2).sum(axis=(2, 3)), counted.sum(axis=(2, 3))
    rms = np.sqrt(squares / np.maximum(counts, 1))
    return Norms(float(size.max(initial=0.0)), float(rms.max(initial=0.0)))


def violation(actual: NDArray, expected: NDArray, bound: Bound) -> Optional[str]:
    """Why `actual` breaks the rule, or None."""
    actual = np.asarray(actual, np.float64)
    if actual.shape != expected.shape:
        return f"shape {actual.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        wrong = np.where(finite, ~np.isfinite(actual), ~((actual == expected) | (np.isnan(actual) & np.isnan(expected))))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            return f"{actual[at]} at {at}, expected {expected[at]} ({int(wrong.sum())} such elements)"
        found = norms(np.where(finite, actual - expected, 0.0), expected)
    if found.max > bound.max or found.rms > bound.rms:
        return f"error max {found.max:.3g} (allowed {bound.max:.3g}), rms {found.rms:.3g} (allowed {bound.rms:.3g})"
    return None


def _worst(errors: Iterable[Norms]) -> Norms:
    every = list(errors)
    return Norms(max(e.max for e in every), max(e.rms for e in every))


def _naive(expected: NDArray, attempts: list[NDArray]) -> Norms:
    with np.errstate(invalid="ignore"):
        differences = [np.where(np.isfinite(expected), np.nan_to_num(x.astype(np.float64) - expected), 0.0) for x in attempts]
    return _worst(norms(difference, expected) for difference in differences)


def _quadrature(*terms: NDArray) -> NDArray:
    return np.sqrt(sum(np.square(t) for t in terms))


class _Noise:
    """One rounding of every intermediate, propagated to the results. [batch, heads, rows, columns] throughout."""

    def __init__(self, problem: Problem, logsumexp: NDArray) -> None:
        s = scores(problem)
        clean = np.nan_to_num(np.where(s.visible, s.final, 0.0), nan=0.0, posinf=0.0, neginf=0.0)
        raw = np.nan_to_num(np.where(s.visible, s.raw, 0.0), nan=0.0, posinf=0.0, neginf=0.0)
        self.problem = problem
        self.seen = s.visible
        self.slope = np.nan_to_num(s.slope)
        self.finite_l = np.where(np.isfinite(logsumexp), logsumexp, 0.0)
        self.p = np.where(s.visible & np.isfinite(logsumexp), np.exp(np.minimum(clean - self.finite_l, 0.0)), 0.0)
        self.relative = _U * (np.abs(raw) * self.slope + np.abs(clean) + _EXP)
        highest = np.max(np.where(s.visible, clean, -np.inf), axis=-1, keepdims=True, initial=-np.inf)
        self.one = np.exp(np.minimum(np.where(np.isfinite(highest), highest - self.finite_l, 0.0), 0.0))
        self.v = np.nan_to_num(per_query_head(problem.value.values, problem.group), posinf=0.0, neginf=0.0)

    def output(self, expected: NDArray) -> NDArray:
        precision = self.problem.value.precision
        if precision in INTEGERS:
            steps = 255 if self.problem.options.compute == FAST else 32767
            weight = np.where(self.seen, self.one * (0.5 / steps), 0.0)
        else:
            weight = self.p * UNIT[precision]
        variance = np.matmul(np.square(_quadrature(self.p * self.relative, weight)), np.square(self.v))
        size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
        return _quadrature(np.sqrt(variance), UNIT[self.problem.output_precision] * size)

    def logsumexp(self) -> NDArray:
        from_scores = np.sqrt(np.square(self.p * self.relative).sum(axis=-1, keepdims=True))
        return _quadrature(from_scores, _U * (np.abs(self.finite_l) + 1.0))

    def gradients(self, incoming: Incoming) -> dict[str, NDArray]:
        problem, group = self.problem, self.problem.group
        k2 = np.square(np.nan_to_num(per_query_head(problem.key.values, group)))
        q2 = np.square(np.nan_to_num(problem.query.values))
        do = np.nan_to_num(incoming.grad_output.values)
        p, relative = self.p, self.relative + _U * np.abs(self.finite_l)
        dp = np.matmul(do, swap(self.v))
        dp_noise = _U * np.sqrt(np.matmul(np.square(do), np.square(swap(self.v))))
        d = (p * dp).sum(axis=-1, keepdims=True)
        if incoming.output is not None:
            given = np.nan_to_num(incoming.output)
            d_noise = _U * np.sqrt(np.square(do * given).sum(axis=-1, keepdims=True))
            # O itself was given rounded: its distance from the exact O is not the driver's doing, but moves D.
            d_noise = _quadrature(d_noise, np.abs((do * given).sum(axis=-1, keepdims=True) - d))
        else:
            d_noise = np.sqrt(np.square(_quadrature(p * relative * dp, p * dp_noise)).sum(axis=-1, keepdims=True))
        d_noise = _quadrature(d_noise, _U * np.abs(d))
        ds = p * (dp - d)
        ds_noise = _quadrature(ds * relative, p * dp_noise, p * d_noise, _U * p * dp, _U * p * d)

        def beside(x: NDArray, noise: NDArray, precision: int) -> NDArray:
            return np.square(_quadrature(noise, x * UNIT.get(precision, _U)))

        dx, dx_noise, scale = ds * self.slope, ds_noise * self.slope, abs(problem.scale)
        dq = np.matmul(beside(dx, dx_noise, problem.key.precision), k2)
        dk = np.matmul(swap(beside(dx, dx_noise, problem.query.precision)), q2)
        dv = np.matmul(swap(beside(p, p * relative, incoming.grad_output.precision)), np.square(do))
        result = {
            "query": scale * np.sqrt(dq),
            "key": scale * np.sqrt(backward_module._per_key_head(dk, group, backward_module.FLOAT64)),
            "value": np.sqrt(backward_module._per_key_head(dv, group, backward_module.FLOAT64)),
            "d_values": d_noise,
        }
        from_mask = backward_module._mask_gradient(np.square(ds_noise), problem)
        if from_mask is not None:
            result["mask"] = np.sqrt(from_mask)
        if problem.options.sinks is not None:
            sink = problem.options.sinks[None, :, None, None]
            share = np.exp(np.minimum(sink - self.finite_l, 0.0))
            error = _quadrature(share * d_noise, share * d * _U * (np.abs(sink) + np.abs(self.finite_l) + _EXP))
            result["sinks"] = np.sqrt(np.square(error).sum(axis=(0, 2), keepdims=True))
        return result


def _bound(factor: float, expected: NDArray, attempts: list[NDArray], noise: NDArray) -> Bound:
    # The expected value is kept in FP32: half a unit of it is added to what one rounding may cost.
    size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    return Bound(factor, _naive(expected, attempts), norms(_quadrature(noise, _U * size), expected))


def forward_bounds(problem: Problem, exact: Forward) -> dict[str, Bound]:
    """Bounds of "output" and "logsumexp"."""
    attempts = [forward(problem, a) for a in ORDERS]
    noise = _Noise(problem, exact.logsumexp)
    return {
        "output": _bound(FORWARD_FACTOR, exact.output, [t.output for t in attempts], noise.output(exact.output)),
        "logsumexp": _bound(FORWARD_FACTOR, exact.logsumexp, [t.logsumexp for t in attempts], noise.logsumexp()),
    }


def gradient_bounds(problem: Problem, exact: Gradients, incoming: Incoming) -> dict[str, Bound]:
    """Bounds of "query", "key", "value", "d_values" and, where they exist, "mask" and "sinks".

    `incoming` is what the driver is given: L and O as stored, not as float64 knows them.
    """
    attempts = [backward(problem, incoming, a) for a in ORDERS]
    noise = _Noise(problem, incoming.logsumexp).gradients(incoming)
    return {
        name: _bound(GRADIENT_FACTOR, getattr(exact, name), [getattr(t, name) for t in attempts], amount)
        for name, amount in noise.items()
    }
