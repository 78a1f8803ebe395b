"""The error that a driver may have against float64 (eq. 55).

Rule: |driver - float64| <= factor * max(naive, noise), with factor 2 for O and logsumexp, 3 for
gradients and D, in two norms that must both hold:

    max   the largest absolute error of any element
    rms   the largest root-mean-square error of any head (so that one bad head is not averaged away)

*naive* is the largest error of the plain formula in the operands' precision (see arithmetic.py)
over a few orders of summation: the formula names no order, and one order can be lucky.

*noise* is the naive error to be expected: every product, partial sum and stored intermediate
rounded, each with the standard deviation of a rounding, added in quadrature and propagated to the
results. Over many rows it about equals naive (a test holds them together). It is there because a
small tensor's naive error can be small by luck. For max it counts three standard deviations of the
worst element. For rms it counts 1 + 8/n variances of a head of n rows that matter (see
_few_rows()): three deviations for one row, one for many.

Where the expected values are kept in FP32, half a unit in the last place of the largest (its
standard deviation, for rms) is allowed on top: they are off by as much themselves.

Elements whose expected value is NaN must be NaN, infinite ones must be equal; they are left out of
both norms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Arithmetic, swap
from .backward import Gradients, Incoming, backward, mask_gradient, per_key_head
from .forward import Forward, forward, per_query_head, row_scale
from .precision import DEVIATION, FP32, INTEGERS, UNIT
from .problem import FAST, Operand, Problem

FORWARD_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
ORDERS = tuple(Arithmetic(np.float32, order) for order in ("", "order 1", "order 2", "order 3"))
_U = DEVIATION * UNIT[FP32]


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
    kept: Norms = Norms(0.0, 0.0)
    """How far the expected values are off, where they are kept in FP32."""

    @property
    def max(self) -> float:
        return self.factor * max(self.naive.max, self.noise.max) + self.kept.max

    @property
    def rms(self) -> float:
        return self.factor * max(self.naive.rms, self.noise.rms) + self.kept.rms


def norms(error: NDArray, expected: NDArray) -> Norms:
    """Both norms of an error [batch, heads, rows, columns], where `expected` is finite."""
    counted = np.isfinite(expected)
    size = np.where(counted, np.abs(error, dtype=np.float64), 0.0)
    squares, counts = (size**2).sum(axis=(2, 3)), counted.sum(axis=(2, 3))
    rms = np.sqrt(squares / np.maximum(counts, 1))
    return Norms(float(size.max(initial=0.0)), float(rms.max(initial=0.0)))


def violation(actual: NDArray, expected: NDArray, bound: Bound) -> str | None:
    """Why `actual` breaks the rule, or None."""
    actual = np.asarray(actual, np.float64)
    if actual.shape != expected.shape:
        return f"shape {actual.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        wrong = np.where(
            finite,
            ~np.isfinite(actual),
            ~((actual == expected) | (np.isnan(actual) & np.isnan(expected))),
        )
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{actual[at]} at {at}, expected {expected[at]} ({int(wrong.sum())} such elements)"
            )
        found = norms(np.where(finite, actual - expected, 0.0), expected)
    if found.max > bound.max or found.rms > bound.rms:
        largest = f"error max {found.max:.3g} (allowed {bound.max:.3g})"
        return f"{largest}, rms {found.rms:.3g} (allowed {bound.rms:.3g})"
    return None


def _worst(errors: Iterable[Norms]) -> Norms:
    every = list(errors)
    return Norms(max(e.max for e in every), max(e.rms for e in every))


def _naive(expected: NDArray, attempts: list[NDArray]) -> Norms:
    with np.errstate(invalid="ignore"):
        differences = [
            np.where(np.isfinite(expected), np.nan_to_num(x.astype(np.float64) - expected), 0.0)
            for x in attempts
        ]
    return _worst(norms(difference, expected) for difference in differences)


def _quadrature(*terms: NDArray) -> NDArray:
    return np.sqrt(sum(np.square(t) for t in terms))


def _clean(x: NDArray) -> NDArray:
    """Without NaN and infinities: elements that they reach are not measured."""
    return np.where(np.isfinite(x), x, 0.0)


def _summation(a: NDArray, b: NDArray) -> NDArray:
    """Standard deviation of a[..., n, k] b[..., k, m] in FP32, one k after the other."""
    partial = np.zeros((*a.shape[:-1], b.shape[-1]))
    squares = np.zeros_like(partial)
    for k in range(a.shape[-1]):
        term = a[..., :, k, None] * b[..., None, k, :]
        partial = partial + term
        squares += term**2 + partial**2
    return _U * np.sqrt(squares)


def _propagated(noise: NDArray, factor: NDArray) -> NDArray:
    """Standard deviation that the noise of A causes in A B."""
    return np.sqrt(np.matmul(np.square(noise), np.square(factor)))


class _Noise:
    """Standard deviations of the naive results: [batch, heads, rows, columns] throughout."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        exact = forward(problem)
        s = exact.scores
        raw, final = (_clean(np.where(s.visible, x, 0.0)) for x in (s.raw, s.final))
        self.seen, self.slope = s.visible, _clean(s.slope)
        self.out, self.l = _clean(exact.output), _clean(exact.logsumexp)
        self.q, self.q_noise = self._operand(problem.query, 1)
        self.k, self.k_noise = self._operand(problem.key, problem.group)
        self.v, self.v_noise = self._operand(problem.value, problem.group)
        some = s.visible & np.isfinite(exact.logsumexp)
        self.p = np.where(some, np.exp(np.minimum(final - self.l, 0.0)), 0.0)
        # Of S: the sum over columns, its product with the scale, the sum with the bias; then exp(S)
        # once.
        inputs = (_propagated(self.q, swap(self.k_noise)), _propagated(self.q_noise, swap(self.k)))
        dots = abs(problem.scale) * _quadrature(_summation(self.q, swap(self.k)), *inputs)
        fast = problem.options.compute == FAST and problem.value.precision in INTEGERS
        exponential = np.full_like(final, DEVIATION * 2.0**-17 if fast else _U)
        self.relative = _quadrature(
            self.slope * dots, _U * self.slope * raw, _U * final, exponential
        )

    @staticmethod
    def _operand(operand: Operand, group: int) -> tuple[NDArray, NDArray]:
        """Real values, and the noise of computing them from integers."""
        noise = np.zeros_like(operand.values) if operand.deviation is None else operand.deviation
        return _clean(per_query_head(operand.values, group)), _clean(per_query_head(noise, group))

    def output(self) -> NDArray:
        precision = self.problem.value.precision
        if precision in INTEGERS:
            steps = 255 if self.problem.options.compute == FAST else 32767
            scale = row_scale(self.problem.value, self.problem.group)
            top = np.abs(self.p * scale).max(axis=-1, keepdims=True, initial=0.0)
            weight = np.where(self.seen, top / np.abs(scale) * (0.5 / steps / 3.0**0.5), 0.0)
        else:
            weight = self.p * UNIT[precision] * DEVIATION
        # An error of P also moves the sum by which it is divided: dO = sum dP (V - O).
        moved = np.square(self.p * self.relative)
        centred = (
            np.matmul(moved, np.square(self.v))
            - 2 * self.out * np.matmul(moved, self.v)
            + np.square(self.out) * moved.sum(axis=-1, keepdims=True)
        )
        stored = UNIT[self.problem.output_precision] * DEVIATION * self.out
        sums = _quadrature(_summation(self.p, self.v), self._normaliser() * self.out)
        inputs = _quadrature(_propagated(weight, self.v), _propagated(self.p, self.v_noise))
        return _quadrature(np.sqrt(np.maximum(centred, 0.0)), inputs, sums, stored, _U * self.out)

    def _normaliser(self) -> NDArray:
        """Relative, of the sum over exp(S)."""
        return _summation(self.p, np.ones((self.p.shape[-1], 1)))

    def logsumexp(self) -> NDArray:
        from_scores = np.sqrt(np.square(self.p * self.relative).sum(axis=-1, keepdims=True))
        return _quadrature(from_scores, self._normaliser(), _U * self.l, np.full_like(self.l, _U))

    def gradients(self, incoming: Incoming) -> dict[str, NDArray]:
        problem, group, p = self.problem, self.problem.group, self.p
        do = _clean(incoming.grad_output.values)
        # L is given, rounded: unlike in forward, an error of S is not divided out.
        relative = _quadrature(self.relative, _U * self.l)
        dp = np.where(self.seen, np.matmul(do, swap(self.v)), 0.0)
        dp_noise = _quadrature(_summation(do, swap(self.v)), _propagated(do, swap(self.v_noise)))
        dp_noise = np.where(self.seen, dp_noise, 0.0)
        d = (p * dp).sum(axis=-1, keepdims=True)
        if incoming.output is not None:
            given = np.where(
                self.seen.any(axis=-1, keepdims=True), do * _clean(incoming.output), 0.0
            )
            # That O was rounded before it was given is not the driver's doing, but moves D.
            moved = np.abs(given.sum(axis=-1, keepdims=True) - d)
            d_noise = _quadrature(_summation(given, np.ones((given.shape[-1], 1))), moved)
        else:
            from_terms = np.square(_quadrature(p * relative * dp, p * dp_noise)).sum(
                axis=-1, keepdims=True
            )
            d_noise = _quadrature(
                np.sqrt(from_terms), _summation(p * dp, np.ones((p.shape[-1], 1)))
            )
        ds = p * (dp - d)
        ds_noise = _quadrature(ds * relative, p * dp_noise, p * d_noise, _U * ds)

        def product(
            x: NDArray, noise: NDArray, precision: int, stored: NDArray, stored_noise: NDArray
        ) -> NDArray:
            """Of x times a stored tensor, beside which x is rounded."""
            beside = _quadrature(noise, x * UNIT.get(precision, UNIT[FP32]) * DEVIATION)
            inputs = _quadrature(_propagated(beside, stored), _propagated(x, stored_noise))
            return _quadrature(inputs, _summation(x, stored))

        def shared(noise: NDArray) -> NDArray:
            return np.sqrt(per_key_head(np.square(noise), group))

        dx, dx_noise, scale = ds * self.slope, ds_noise * self.slope, abs(problem.scale)
        result = {
            "query": scale * product(dx, dx_noise, problem.key.precision, self.k, self.k_noise),
            "key": scale
            * shared(
                product(swap(dx), swap(dx_noise), problem.query.precision, self.q, self.q_noise)
            ),
            "value": shared(
                product(
                    swap(p),
                    swap(p * relative),
                    incoming.grad_output.precision,
                    do,
                    np.zeros_like(do),
                )
            ),
            "d_values": d_noise,
        }
        from_mask = mask_gradient(np.square(ds_noise), problem)
        if from_mask is not None:
            result["mask"] = np.sqrt(from_mask)
        if problem.options.sinks is not None:
            sink = problem.options.sinks[None, :, None, None]
            share = np.exp(np.minimum(sink - self.l, 0.0))
            of_share = _U * _quadrature(
                np.broadcast_to(sink, self.l.shape), self.l, np.ones_like(self.l)
            )
            error = share * _quadrature(d_noise, d * of_share)
            result["sinks"] = np.sqrt(np.square(error).sum(axis=(0, 2), keepdims=True))
        return result


def _bound(factor: float, expected: NDArray, attempts: list[NDArray], noise: NDArray) -> Bound:
    return Bound(
        factor, _naive(expected, attempts), _few_rows(noise, expected), kept_in_fp32(expected)
    )


def _few_rows(deviation: NDArray, expected: NDArray) -> Norms:
    """What the errors of few rows may reach, given the standard deviation of each element.

    The elements of a row share the errors of P, so a head has as many independent errors as it has
    rows that matter: (sum of variances)^2 / sum of squared variances of its rows, which is their
    number if all are alike.
    """
    counted = np.isfinite(expected)
    variance = np.where(counted, np.square(deviation), 0.0)
    rows = variance.sum(axis=3)
    total, squares = rows.sum(axis=2), np.square(rows).sum(axis=2)
    matter = np.where(squares > 0, np.square(total) / np.where(squares > 0, squares, 1.0), 1.0)
    mean = total / np.maximum(counted.sum(axis=(2, 3)), 1)
    rms = np.sqrt(mean * (1 + 8 / matter))
    return Norms(3 * float(np.sqrt(variance).max(initial=0.0)), float(rms.max(initial=0.0)))


def kept_in_fp32(expected: NDArray) -> Norms:
    largest, typical = norms(_clean(expected), expected).max, norms(_clean(expected), expected).rms
    return Norms(UNIT[FP32] * largest, _U * typical)


def forward_bounds(problem: Problem, exact: Forward) -> dict[str, Bound]:
    """Bounds of "output" and "logsumexp"."""
    attempts = [forward(problem, a) for a in ORDERS]
    noise = _Noise(problem)
    return {
        "output": _bound(
            FORWARD_FACTOR, exact.output, [t.output for t in attempts], noise.output()
        ),
        "logsumexp": _bound(
            FORWARD_FACTOR, exact.logsumexp, [t.logsumexp for t in attempts], noise.logsumexp()
        ),
    }


def gradient_bounds(problem: Problem, exact: Gradients, incoming: Incoming) -> dict[str, Bound]:
    """Bounds of "query", "key", "value", "d_values" and, where they exist, "mask" and "sinks".

    `incoming` is what the driver is given: L and O as stored, not as float64 knows them.
    """
    attempts = [backward(problem, incoming, a) for a in ORDERS]
    noise = _Noise(problem).gradients(incoming)
    return {
        name: _bound(
            GRADIENT_FACTOR, getattr(exact, name), [getattr(t, name) for t in attempts], amount
        )
        for name, amount in noise.items()
    }
