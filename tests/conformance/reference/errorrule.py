"""How far a driver may be from float64.

Rule: |driver - float64| <= factor * max(naive, noise), with factor 2 for O and logsumexp, 3 for gradients and D,
in two norms that must both hold:

    max   the largest absolute error of any element
    rms   the largest root-mean-square error of any head (so that one bad head is not averaged away)

*naive* is the largest error of the plain formula in the operands' precision (see arithmetic.py) over a few orders
of summation: the formula names no order, and one order can be lucky.

*noise* is the naive error to be expected if every intermediate is rounded just once: standard deviations of roundings
(uniform over a unit in the last place: half a unit / sqrt 3), added in quadrature. It is there because a small tensor's
naive error can be zero by luck, and no multiple of zero allows for the one or two units in the last place that another
order of roundings costs. Over many elements naive exceeds it, as sums are rounded more than once.

Elements whose expected value is NaN must be NaN, infinite ones must be equal; they are left out of both norms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Arithmetic, swap
from .backward import Gradients, Incoming, backward, mask_gradient, per_key_head
from .forward import Forward, forward, per_query_head
from .precision import FP32, INTEGERS, UNIT
from .problem import FAST, Problem

FORWARD_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
ORDERS = tuple(Arithmetic(np.float32, order) for order in ("", "order 1", "order 2", "order 3"))
_ROOT3 = 3.0**0.5
_U = UNIT[FP32] / _ROOT3


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


def _clean(x: NDArray) -> NDArray:
    """Without NaN and infinities: elements that they reach are not measured."""
    return np.where(np.isfinite(x), x, 0.0)


class _Noise:
    """One rounding of every intermediate, propagated to the results: [batch, heads, rows, columns] throughout."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        exact = forward(problem)
        s = exact.scores
        raw, final = (_clean(np.where(s.visible, x, 0.0)) for x in (s.raw, s.final))
        self.seen, self.slope = s.visible, _clean(s.slope)
        self.out, self.l = _clean(exact.output), _clean(exact.logsumexp)
        self.v = _clean(per_query_head(problem.value.values, problem.group))
        some = s.visible & np.isfinite(exact.logsumexp)
        self.p = np.where(some, np.exp(np.minimum(final - self.l, 0.0)), 0.0)
        # S is rounded as a product and as a sum, and exp(S) once.
        self.relative = _U * _quadrature(raw * self.slope, final, np.ones_like(final))
        # exp(max S - L): what a weight of 1 in the product with V is worth.
        self.one = self.p.max(axis=-1, keepdims=True, initial=0.0)

    def output(self) -> NDArray:
        precision = self.problem.value.precision
        if precision in INTEGERS:
            steps = 255 if self.problem.options.compute == FAST else 32767
            weight = np.where(self.seen, self.one * (0.5 / steps / _ROOT3), 0.0)
        else:
            weight = self.p * UNIT[precision] / _ROOT3
        # An error of P also moves the sum by which it is divided: dO = sum dP (V - O).
        moved = np.square(self.p * self.relative)
        centred = (
            np.matmul(moved, np.square(self.v))
            - 2 * self.out * np.matmul(moved, self.v)
            + np.square(self.out) * moved.sum(axis=-1, keepdims=True)
        )
        rounding = np.matmul(np.square(weight), np.square(self.v))
        stored = UNIT[self.problem.output_precision] / _ROOT3 * self.out
        return _quadrature(np.sqrt(np.maximum(centred, 0.0) + rounding), stored, _U * self.out)

    def logsumexp(self) -> NDArray:
        from_scores = np.sqrt(np.square(self.p * self.relative).sum(axis=-1, keepdims=True))
        return _quadrature(from_scores, _U * self.l, np.full_like(self.l, _U))

    def gradients(self, incoming: Incoming) -> dict[str, NDArray]:
        problem, group, p = self.problem, self.problem.group, self.p
        k2 = np.square(_clean(per_query_head(problem.key.values, group)))
        q2 = np.square(_clean(problem.query.values))
        do = _clean(incoming.grad_output.values)
        # L is given, rounded: unlike in forward, an error of S is not divided out.
        relative = _quadrature(self.relative, _U * self.l)
        dp = np.matmul(do, swap(self.v))
        dp_noise = _U * np.sqrt(np.matmul(np.square(do), np.square(swap(self.v))))
        d = (p * dp).sum(axis=-1, keepdims=True)
        if incoming.output is not None:
            terms = do * _clean(incoming.output)
            # That O was rounded before it was given is not the driver's doing, but moves D.
            given = np.abs(terms.sum(axis=-1, keepdims=True) - d)
            d_noise = _quadrature(_U * np.sqrt(np.square(terms).sum(axis=-1, keepdims=True)), given, _U * d)
        else:
            from_p = np.square(_quadrature(p * relative * dp, p * dp_noise))
            d_noise = _quadrature(np.sqrt(from_p.sum(axis=-1, keepdims=True)), _U * d)
        ds = p * (dp - d)
        ds_noise = _quadrature(ds * relative, p * dp_noise, p * d_noise, _U * ds)

        def beside(x: NDArray, noise: NDArray, precision: int) -> NDArray:
            return np.square(_quadrature(noise, x * UNIT.get(precision, UNIT[FP32]) / _ROOT3))

        dx, dx_noise, scale = ds * self.slope, ds_noise * self.slope, abs(problem.scale)
        dq = np.matmul(beside(dx, dx_noise, problem.key.precision), k2)
        dk = np.matmul(swap(beside(dx, dx_noise, problem.query.precision)), q2)
        dv = np.matmul(swap(beside(p, p * relative, incoming.grad_output.precision)), np.square(do))
        result = {
            "query": scale * np.sqrt(dq),
            "key": scale * np.sqrt(per_key_head(dk, group)),
            "value": np.sqrt(per_key_head(dv, group)),
            "d_values": d_noise,
        }
        from_mask = mask_gradient(np.square(ds_noise), problem)
        if from_mask is not None:
            result["mask"] = np.sqrt(from_mask)
        if problem.options.sinks is not None:
            sink = problem.options.sinks[None, :, None, None]
            share = np.exp(np.minimum(sink - self.l, 0.0))
            of_share = _U * _quadrature(np.broadcast_to(sink, self.l.shape), self.l, np.ones_like(self.l))
            error = share * _quadrature(d_noise, d * of_share)
            result["sinks"] = np.sqrt(np.square(error).sum(axis=(0, 2), keepdims=True))
        return result


def _bound(factor: float, expected: NDArray, attempts: list[NDArray], noise: NDArray) -> Bound:
    # Expected values are kept in FP32: that rounding, too, is no fault of the driver.
    return Bound(factor, _naive(expected, attempts), norms(_quadrature(noise, _U * _clean(expected)), expected))


def forward_bounds(problem: Problem, exact: Forward) -> dict[str, Bound]:
    """Bounds of "output" and "logsumexp"."""
    attempts = [forward(problem, a) for a in ORDERS]
    noise = _Noise(problem)
    return {
        "output": _bound(FORWARD_FACTOR, exact.output, [t.output for t in attempts], noise.output()),
        "logsumexp": _bound(FORWARD_FACTOR, exact.logsumexp, [t.logsumexp for t in attempts], noise.logsumexp()),
    }


def gradient_bounds(problem: Problem, exact: Gradients, incoming: Incoming) -> dict[str, Bound]:
    """Bounds of "query", "key", "value", "d_values" and, where they exist, "mask" and "sinks".

    `incoming` is what the driver is given: L and O as stored, not as float64 knows them.
    """
    attempts = [backward(problem, incoming, a) for a in ORDERS]
    noise = _Noise(problem).gradients(incoming)
    return {
        name: _bound(GRADIENT_FACTOR, getattr(exact, name), [getattr(t, name) for t in attempts], amount)
        for name, amount in noise.items()
    }
