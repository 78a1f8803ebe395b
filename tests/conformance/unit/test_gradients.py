"""The gradients of the reference against finite differences, for every option."""

from __future__ import annotations

import numpy as np
import pytest
from reference.backward import Incoming, backward
from reference.forward import forward

from unit.problems import changed, every_problem, grad_output, inputs

STEP = 1e-5


@pytest.mark.parametrize("name", every_problem())
@pytest.mark.parametrize("output_given", [True, False])
def test_finite_differences(name: str, output_given: bool) -> None:
    problem = every_problem()[name]
    incoming_gradient = grad_output(problem)
    exact = forward(problem)
    incoming = Incoming(incoming_gradient, exact.logsumexp, exact.output if output_given else None)
    gradients = backward(problem, incoming)

    def loss(of) -> float:
        return float((forward(of).output * incoming_gradient.values).sum())

    for input_name, values in inputs(problem).items():
        analytic = getattr(gradients, input_name).reshape(values.shape)
        for index in np.ndindex(values.shape):
            if not np.isfinite(values[index]):
                assert analytic[index] == 0
                continue
            up, down = values.copy(), values.copy()
            up[index] += STEP
            down[index] -= STEP
            numeric = (
                loss(changed(problem, input_name, up)) - loss(changed(problem, input_name, down))
            ) / (2 * STEP)
            assert analytic[index] == pytest.approx(numeric, rel=1e-6, abs=1e-8), (
                input_name,
                index,
            )


def test_d_values_is_the_row_sum() -> None:
    problem = every_problem()["everything"]
    incoming_gradient, exact = grad_output(problem), forward(problem)
    without = backward(problem, Incoming(incoming_gradient, exact.logsumexp)).d_values
    np.testing.assert_allclose(
        without, (incoming_gradient.values * exact.output).sum(-1, keepdims=True), atol=1e-13
    )
