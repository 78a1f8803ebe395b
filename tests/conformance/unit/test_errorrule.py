"""The error rule lets careful FP32 programs pass and catches what a wrong kernel does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference.arithmetic import Arithmetic
from reference.backward import Incoming, backward
from reference.errorrule import Bound, Norms, forward_bounds, gradient_bounds, norms, violation
from reference.forward import forward
from reference.portable import normal
from reference.precision import BF16, FP16, FP32, INT8, rounded
from reference.problem import Operand, Options, Problem

SHAPE = (1, 3, 37, 24)


def _problem(precision: int = FP32, keys: int = 50) -> Problem:
    def operand(name: str, rows: int) -> Operand:
        x = normal(name, (1, 3, rows, 24))
        if precision == INT8:
            return Operand(np.rint(x * 30) / 30, INT8)
        return Operand(rounded(x, precision), precision)

    return Problem(operand("q", 37), operand("k", keys), operand("v", keys))


@pytest.mark.parametrize("precision", [FP32, FP16, BF16, INT8])
@pytest.mark.parametrize("keys", [1, 2, 50])
def test_another_order_of_summation_passes(precision: int, keys: int) -> None:
    problem = _problem(precision, keys=keys)
    exact = forward(problem)
    bounds = forward_bounds(problem, exact)
    gradient = Operand(normal("do", SHAPE))
    incoming = Incoming(gradient, exact.logsumexp.astype(np.float32).astype(np.float64))
    exact_gradients = backward(problem, incoming)
    rules = gradient_bounds(problem, exact_gradients, incoming)
    for seed in range(5):
        other = Arithmetic(np.float32, f"another order {seed}")
        attempt = forward(problem, other)
        assert violation(attempt.output, exact.output, bounds["output"]) is None
        assert violation(attempt.logsumexp, exact.logsumexp, bounds["logsumexp"]) is None
        gradients = backward(problem, incoming, other)
        for name, rule in rules.items():
            assert (
                violation(getattr(gradients, name), getattr(exact_gradients, name), rule) is None
            ), name


def test_mistakes_are_caught() -> None:
    problem = _problem()
    exact = forward(problem)
    rule = forward_bounds(problem, exact)["output"]

    def caught(output: np.ndarray) -> bool:
        return violation(output, exact.output, rule) is not None

    def with_value(values: np.ndarray) -> np.ndarray:
        return forward(replace(problem, value=Operand(values))).output

    last_key_dropped = Options(mask=np.arange(50)[None, None, None, :] < 49)
    dropped = forward(replace(problem, options=last_key_dropped)).output
    assert caught(dropped), "a key dropped at the tail"
    assert caught(exact.output[:, [0, 0, 2]]), "head 1 computed from head 0"
    assert caught(exact.output[:, :, [1, 0, *range(2, 37)]]), "rows exchanged"
    assert caught(with_value(rounded(problem.value.values, BF16))), "V rounded to BF16 on the way"
    assert caught(rounded(exact.output, FP16)), "O rounded to FP16 on the way"
    assert caught(exact.output * (1 + 1e-5)), "a bad exponential"
    one_nan = exact.output.copy()
    one_nan[0, 2, 36, 23] = np.nan
    assert caught(one_nan)


def test_non_finite_elements() -> None:
    rule = Bound(2.0, Norms(1.0, 1.0), Norms(0.0, 0.0))
    expected = np.array([np.nan, np.inf, -np.inf, 1.0]).reshape(1, 1, 1, 4)
    assert violation(expected.copy(), expected, rule) is None
    for wrong in (
        [0.0, np.inf, -np.inf, 1.0],
        [np.nan, -np.inf, -np.inf, 1.0],
        [np.nan, np.inf, -np.inf, np.nan],
    ):
        assert violation(np.array(wrong).reshape(1, 1, 1, 4), expected, rule) is not None
    assert violation(np.zeros((1, 1, 1, 3)), expected, rule) is not None


def test_norms_are_per_head() -> None:
    error = np.zeros((1, 4, 5, 5))
    error[0, 2] = 3.0
    assert norms(error, error) == Norms(3.0, 3.0)
    assert norms(np.zeros((0, 2, 3, 4)), np.zeros((0, 2, 3, 4))) == Norms(0.0, 0.0)


@pytest.mark.parametrize("precision", [FP32, FP16, INT8])
def test_expected_noise_is_about_the_naive_error(precision: int) -> None:
    """The two may stand in for each other: neither is a loophole."""
    problem = _problem(precision)
    exact = forward(problem)
    incoming = Incoming(Operand(normal("do", SHAPE)), exact.logsumexp)
    bounds = forward_bounds(problem, exact)
    bounds.update(gradient_bounds(problem, backward(problem, incoming), incoming))
    for name, bound in bounds.items():
        assert 0.5 < bound.noise.rms / bound.naive.rms < 1.6, (name, bound)
        assert 0.4 < bound.noise.max / bound.naive.max < 4, (name, bound)
