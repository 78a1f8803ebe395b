"""The formulas for large calls, and rounding, beside the conformance reference."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from metal_cuda import errorrule, formulas, large, replay, rounding, storage, tiny
from metal_cuda.bundle import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests/conformance"))
from reference import backward as of_backward
from reference import errorrule as of_errorrule
from reference import forward as of_forward
from reference import problem as of_problem
from reference import quantize as of_quantize


def reference(problem: large.Problem) -> tuple[of_problem.Problem, of_backward.Incoming | None]:
    """The same problem for the reference."""
    call, given = problem.call, problem.operands

    def operand(made: storage.Made, kind: storage.Storage) -> of_problem.Operand:
        scale = None if made.row_scale is None else made.row_scale[..., None]
        return of_problem.Operand(
            made.real, kind.precision, made.inside, kind.rotated, scale, made.single, made.deviation
        )

    options = of_problem.Options(
        softcap=call.softcap,
        causal=call.causal,
        window=call.window,
        alignment=int(call.bottom_right),
        mask=given.options.mask,
        alibi_slopes=given.options.slopes,
        sinks=given.options.sinks,
        lengths=list(call.lengths) or None,
    )
    made = of_problem.Problem(
        operand(given.query, call.query),
        operand(given.key, call.key),
        operand(given.value, call.value),
        options,
        call.output,
    )
    if given.grad_output is None:
        return made, None
    grad_output = of_problem.Operand(given.grad_output, call.grad_output)
    return made, of_backward.Incoming(grad_output, given.logsumexp, given.output, call.clips)


# The reference has no lengths of keys.
CALLS = [call for call in tiny.calls(13, 22) if not call.key_lengths]
every_call = pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])


@pytest.fixture(autouse=True)
def _several_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "BLOCK", 5 * 22)


@every_call
def test_formulas_are_those_of_the_reference(call: large.Call) -> None:
    problem = large.problem(np, call)
    made, incoming = reference(problem)
    exact = of_forward.forward(made)
    close(problem.exact.output, exact.output)
    close(problem.exact.logsumexp, exact.logsumexp)
    if incoming is None:
        return
    gradients = of_backward.backward(made, incoming)
    found = problem.expected(np)
    for role in found.keys() - {"output", "logsumexp"}:
        name = role.removeprefix("grad_")
        close(found[role], getattr(gradients, name).reshape(found[role].shape))


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


def test_lengths_of_keys_hide_the_rest() -> None:
    """A batch with fewer keys is that batch alone, with its own diagonal."""
    call = large.Call(
        "lengths", *[storage.Storage(storage.FP32)] * 3, batches=2, heads=2, key_heads=1, rows=5, keys=12, columns=8,
        causal=True, bottom_right=True, key_lengths=(12, 7), gradients=True,
    )  # fmt: skip
    problem = large.problem(np, call)
    both = problem.operands

    def second(x: storage.Made, keys: int | None = None) -> storage.Made:
        return storage.Made({}, x.real[1:, :, :keys])

    alone = formulas.attention(np, replace(
        both, query=second(both.query), key=second(both.key, 7), value=second(both.value, 7),
        options=replace(both.options, key_lengths=None), grad_output=both.grad_output[1:],
        logsumexp=both.logsumexp[1:],
    ))  # fmt: skip
    close(problem.exact.output[1:], alone.output)
    close(problem.exact.gradients["key"][1:, :, :7], alone.gradients["key"])
    assert not problem.exact.gradients["key"][1:, :, 7:].any()


# MARK: The error rule


@every_call
def test_the_rule_is_that_of_the_reference(call: large.Call) -> None:
    problem = large.problem(np, call)
    made, incoming = reference(problem)
    expected = of_errorrule.forward_bounds(made, of_forward.forward(made))
    if incoming is not None:
        exact = of_backward.backward(made, incoming)
        expected |= of_errorrule.gradient_bounds(made, exact, incoming)
    found = problem.bounds(np)
    assert {role.removeprefix("grad_") for role in found} == expected.keys()
    for role, bound in found.items():
        other = expected[role.removeprefix("grad_")]
        assert bound.factor == other.factor
        for a, b in (
            (bound.noise.max, other.noise.max),
            (bound.noise.rms, other.noise.rms),
        ):
            if call.lengths:
                # The reference also counts the zeros of other sequences as terms.
                assert b / 2 < a <= b, role
            else:
                close(a, b)
        # Orders are others, and so are last bits of functions.
        for a, b in (
            (bound.naive.max, other.naive.max),
            (bound.naive.rms, other.naive.rms),
        ):
            assert b / 4 < a < 4 * b or a == b, role


def compared(
    problem: large.Problem, results: formulas.Results, bounds: dict[str, errorrule.Bound]
) -> replay.Outcome:
    outcome = replay.Outcome(problem.call.name, [])
    for role, expected in problem.expected(np).items():
        actual = large.clipped(problem, role, large.pick(results, role), np)
        replay._compare(outcome, np, role, actual, expected, bounds[role])
    return outcome


@every_call
def test_the_rule_takes_another_order_and_nothing_wrong(call: large.Call) -> None:
    problem = large.problem(np, call)
    bounds, of = problem.bounds(np), problem.operands
    arithmetic = formulas.Arithmetic(np, True, 9)
    assert compared(problem, formulas.attention(np, of, arithmetic), bounds).problems == []
    # The last bits of a scale.
    wrong = replace(of, options=replace(of.options, scale=of.options.scale * 1.02))
    assert compared(problem, formulas.attention(np, wrong, arithmetic), bounds).problems
    # V that is one row off.
    moved = replace(of.value, real=np.roll(of.value.real, 1, axis=2), single=None)
    wrong = replace(of, value=moved)
    assert compared(problem, formulas.attention(np, wrong, arithmetic), bounds).problems


LONG = large.Call(
    "long", *[storage.Storage(storage.FP16)] * 3, heads=2, rows=3000, keys=24, columns=8,
    causal=True, gradients=True,
)  # fmt: skip


def test_long_sums_may_err_as_sums_in_order_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """dV of the first keys: thousands of small terms after few that are large.

    The finding of the first run on a GPU: a library's FP32 product errs less than what it was held
    against.
    """
    monkeypatch.setattr(formulas, "BLOCK", 1 << 16)
    problem = large.problem(np, LONG)
    bounds, of = problem.bounds(np), problem.operands
    in_order = formulas.attention(np, of, formulas.Arithmetic(np, True, 5))
    assert compared(problem, in_order, bounds).problems == []
    # One of 3000 rows is lost.
    in_order.gradients["value"][:, :, :16] -= 2e-4
    problems = compared(problem, in_order, bounds).problems
    assert problems
    assert all("grad_value" in text for text in problems)


@pytest.mark.parametrize("call", tiny.roundings(), ids=[call.name for call in tiny.roundings()])
def test_rounding_is_that_of_the_reference(call: rounding.Call) -> None:
    call = replace(call, shape=(1, 2, 128, 64))
    kind, data = call.destination, rounding.rounded(np, call)
    x = storage.read(np, data.source, call.source, call.shape)
    scheme = of_quantize.Scheme(
        kind.precision, kind.granularity, kind.block_rows, kind.group, call.asymmetric,
        scale_precision=storage.FP16 if kind.half_scales else storage.FP32,
    )  # fmt: skip
    expected = of_quantize.quantize(x, scheme)
    assert np.array_equal(
        data.parts["data"], storage.stored_bytes(np, expected.data, kind.precision)
    )
    precision = storage.FP16 if kind.half_scales else storage.FP32
    assert np.array_equal(data.parts["scales"], storage.stored_bytes(np, expected.scale, precision))
    if call.asymmetric:
        zeros = data.parts["zero_points"].view(f"i{kind.zero_point_bytes}")
        assert np.array_equal(zeros, expected.zero_point.reshape(-1))
    real = of_quantize.dequantize(expected, np.float32)
    assert np.array_equal(data.back, storage.rounded(np, real.astype(np.float64), call.source))
