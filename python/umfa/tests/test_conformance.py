"""The conformance vectors through the package's functions.

Left to the runners in C and Rust is what has no argument here: D as an input or an output, and
descriptors that are wrong. MFA_REQUIRE_ALL makes a skip a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import vectors
from replay import GRANULARITIES, PRECISIONS, Live, run_backward, run_forward
from vectors import BF16, NONE, Array, Case

import umfa

DTYPES = {vectors.FP32: "float32", vectors.FP16: "float16", vectors.BF16: "bfloat16"}
D_GIVEN = 1
ASYMMETRIC, SMOOTH, MEAN_GIVEN, SCALE_GIVEN = 1, 2, 4, 8


def names(*calls: str, role: str = "") -> list[str]:
    return [
        case.name
        for case in vectors.cases().values()
        if case.status == 0 and case.call in calls and (not role or role in case.tensors)
    ]


FORWARD = names("attention", "plain", "training", role="output")
BACKWARD = [
    name
    for name in names("attention", "training", role="grad_output")
    if not vectors.cases()[name].flags & D_GIVEN
    and {"grad_query", "grad_key", "grad_value"} & set(vectors.cases()[name].tensors)
]


@pytest.fixture(scope="module")
def shared() -> Iterator[umfa.MFAContext]:
    with umfa.MFAContext() as opened:
        yield opened


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    found = vectors.cases()[request.param]
    if any(tensor.precision == BF16 for tensor in found.tensors.values()):
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    return found


@pytest.mark.parametrize("case", FORWARD, indirect=True)
def test_forward(shared: umfa.MFAContext, case: Case) -> None:
    run_forward(shared, case)


@pytest.mark.parametrize("case", BACKWARD, indirect=True)
def test_backward(shared: umfa.MFAContext, case: Case) -> None:
    run_backward(shared, case)


def expected_parts(live: Live) -> dict[str, Array]:
    """Integers, scales, zero points and mean as the case expects them."""
    case, tensor = live.case, live.case.tensors["destination"]
    quantization = case.quantizations["destination"]
    buffers = {
        number: case.expected(number) if number in case.same else live.memory[number]
        for number in live.memory
    }
    parts = {
        "data": tensor.view(buffers[tensor.buffer]),
        "scale": quantization.scales(buffers[quantization.scale_buffer], tensor.shape),
    }
    if quantization.zero_point_buffer != NONE:
        memory = buffers[quantization.zero_point_buffer]
        parts["zero_point"] = quantization.zero_points(memory, tensor.shape)
    if quantization.mean_buffer != NONE:
        parts["mean"] = quantization.means(buffers[quantization.mean_buffer], tensor.shape)
    return parts


@pytest.mark.parametrize("case", names("quantize"), indirect=True)
def test_quantize(shared: umfa.MFAContext, case: Case) -> None:
    live = Live(case)
    quantization, parts = case.quantizations["destination"], expected_parts(live)
    given: dict[str, Any] = {}
    if case.flags & MEAN_GIVEN:
        given["mean"] = parts["mean"]
    if case.flags & SCALE_GIVEN:
        given["scale"] = parts["scale"]
        given["zero_point"] = parts.get("zero_point")
    tensor = umfa.quantize(
        live.tensor("source"),
        PRECISIONS[case.tensors["destination"].precision],  # type: ignore[arg-type]
        GRANULARITIES[quantization.granularity],  # type: ignore[arg-type]
        block_rows=quantization.block_rows or 64,
        group=quantization.group_size or None,  # type: ignore[arg-type]
        symmetric=not case.flags & ASYMMETRIC,
        scale_dtype=DTYPES[quantization.scale_precision],  # type: ignore[arg-type]
        zero_point_dtype="int32" if quantization.zero_point_bytes == 4 else "int8",
        smooth=bool(case.flags & SMOOTH),
        rotate=bool(quantization.rotated),
        measure_error=True,
        context=shared,
        **given,
    )
    for name, expected in parts.items():
        found = np.asarray(getattr(tensor, name)).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == expected.dtype, name
    assert tensor.error is not None
    report = (
        tensor.error.rmse,
        tensor.error.relative_rmse,
        tensor.error.max_abs,
        tensor.error.worst_row_rmse,
    )
    np.testing.assert_allclose(report, case.report, rtol=1e-4)
    live.untouched()


@pytest.mark.parametrize("case", names("dequantize"), indirect=True)
def test_dequantize(shared: umfa.MFAContext, case: Case) -> None:
    live = Live(case)
    kind = DTYPES[case.tensors["destination"].precision]
    out = live.tensor("destination")
    found = live.tensor("source").dequantize(kind, out=out, context=shared)
    live.check("destination", found)
    live.untouched("destination")
