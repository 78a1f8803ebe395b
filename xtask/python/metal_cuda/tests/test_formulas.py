"""The formulas for large calls, and rounding, beside the conformance reference."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from metal_cuda import formulas, large, rounding, storage, tiny
from metal_cuda.bundle import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests/conformance"))
from reference import backward as of_backward
from reference import forward as of_forward
from reference import problem as of_problem
from reference import quantize as of_quantize


def reference(problem: large.Problem) -> tuple[of_problem.Problem, of_problem.Operand | None]:
    """The same problem for the reference."""
    call = problem.call

    def operand(made: storage.Made, kind: storage.Storage) -> of_problem.Operand:
        return of_problem.Operand(
            made.real, kind.precision, inside=made.inside, rotated=kind.rotated
        )

    options = of_problem.Options(
        softcap=call.softcap,
        causal=call.causal,
        window=call.window,
        alignment=int(call.bottom_right),
        mask=problem.options.mask,
        alibi_slopes=problem.options.slopes,
        sinks=problem.options.sinks,
        lengths=list(call.lengths) or None,
    )
    grad_output = (
        None
        if problem.grad_output is None
        else of_problem.Operand(problem.grad_output, call.grad_output)
    )
    made = of_problem.Problem(
        operand(problem.q, call.query),
        operand(problem.k, call.key),
        operand(problem.v, call.value),
        options,
    )
    return made, grad_output


# The reference has no lengths of keys.
CALLS = [call for call in tiny.calls(13, 22) if not call.key_lengths]


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_formulas_are_those_of_the_reference(
    call: large.Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks of rows.
    monkeypatch.setattr(formulas, "BLOCK", 5 * call.keys)
    problem = large.problem(np, call)
    made, grad_output = reference(problem)
    exact = of_forward.forward(made)
    close(problem.exact.output, exact.output)
    close(problem.exact.logsumexp, exact.logsumexp)
    if grad_output is None:
        return
    incoming = of_backward.Incoming(grad_output, problem.given.logsumexp, clip=call.clips)
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
    q, k, v = problem.q.real[1:], problem.k.real[1:, :, :7], problem.v.real[1:, :, :7]
    options = replace(problem.options, key_lengths=None)
    given = formulas.Results(problem.given.output[1:], problem.given.logsumexp[1:])
    alone = formulas.attention(np, q, k, v, options, problem.grad_output[1:], given)
    close(problem.exact.output[1:], alone.output)
    close(problem.exact.gradients["key"][1:, :, :7], alone.gradients["key"])
    assert not problem.exact.gradients["key"][1:, :, 7:].any()


def test_naive_errs_as_the_precision_does() -> None:
    """In FP16 more than in FP32, in both more than nothing, and in neither much."""
    calls = {call.name: call for call in tiny.calls(30, 60)}
    worst = {
        name: large.problem(np, calls[name]).bounds(np)["output"][0]
        for name in ("heads fp16", "heads fp32")
    }
    assert 0 < worst["heads fp32"] < 2e-6 < worst["heads fp16"] < 2e-3


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
