"""The conformance vectors through the package's functions.

Left to the runners in C and Rust is what has no argument here: D as an input or an output, and
descriptors that are wrong. MFA_REQUIRE_ALL makes a skip a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import vectors
from vectors import BF16, NONE, Array, Case

import umfa

PRECISIONS = {vectors.INT8: "int8", vectors.INT4: "int4"}
GRANULARITIES = ["tensor", "row", "block", "channel"]
DTYPES = {vectors.FP32: "float32", vectors.FP16: "float16", vectors.BF16: "bfloat16"}
D_GIVEN, CLIP = 1, 2
SCALE, CAUSAL, WINDOW = 1, 2, 4
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


class Live:
    """A case in memory."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.memory = case.memory()

    def tensor(self, role: str) -> Any:
        """An array, a QuantizedTensor, or None."""
        if role not in self.case.tensors:
            return None
        tensor = self.case.tensors[role]
        data = tensor.view(self.memory[tensor.buffer])
        quantization = self.case.quantizations.get(role)
        if quantization is None:
            return data
        zero_point: Any = None
        if quantization.scale_buffer == NONE:
            scale: Any = np.float32(quantization.scale)
            zero_point = np.int8(quantization.zero_point) if quantization.zero_point else None
        else:
            scale = quantization.scales(self.memory[quantization.scale_buffer], tensor.shape)
            if quantization.zero_point_buffer != NONE:
                memory = self.memory[quantization.zero_point_buffer]
                zero_point = quantization.zero_points(memory, tensor.shape)
        mean = None
        if quantization.mean_buffer != NONE:
            mean = quantization.means(self.memory[quantization.mean_buffer], tensor.shape)
        return umfa.QuantizedTensor(
            data,
            np.asarray(scale),
            None if zero_point is None else np.asarray(zero_point),
            mean,
            precision=PRECISIONS[tensor.precision],  # type: ignore[arg-type]
            granularity=GRANULARITIES[quantization.granularity],  # type: ignore[arg-type]
            block_rows=quantization.block_rows or None,
            group=quantization.group_size or None,  # type: ignore[arg-type]
            rotated=quantization.rotated,
        )

    def operands(self) -> list[Any]:
        return [self.tensor(role) for role in ("query", "key", "value")]

    def options(self) -> dict[str, Any]:
        case = self.case
        flags, scale, softcap, alignment, compute, left, right = case.options
        options: dict[str, Any] = {
            "causal": bool(int(flags) & CAUSAL),
            "alignment": ["top_left", "bottom_right"][int(alignment)],
            "compute": ["exact", "fast"][int(compute)],
            "attn_mask": self.tensor("mask"),
        }
        if int(flags) & SCALE:
            options["softmax_scale"] = scale
        if int(flags) & WINDOW:
            options["window"] = (int(left), int(right))
        if softcap:
            options["softcap"] = softcap
        slopes, sinks = self.tensor("alibi_slopes"), self.tensor("sinks")
        if slopes is not None:
            options["alibi_slopes"] = slopes[0, :, 0, 0] if len(slopes) == 1 else slopes[:, :, 0, 0]
        if sinks is not None:
            options["sinks"] = sinks[0, :, 0, 0]
        if case.varlen:
            for name, number in (
                ("cu_seqlens_q", case.varlen[1]),
                ("cu_seqlens_k", case.varlen[3]),
            ):
                options[name] = self.memory[number].view("<i4")
        return options

    def check(self, role: str, found: Any) -> None:
        """An array against what the case expects, head by head."""
        expected = self.case.expected_values(role).astype(np.float64)
        actual = np.asarray(found).astype(np.float64).reshape(expected.shape)
        allowed = self.case.values[role]
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=role)
        error = np.abs(np.where(finite, actual, 0.0) - np.where(finite, expected, 0.0))
        assert np.isfinite(actual[finite]).all(), f"{role} is not finite where it should be"
        at = np.unravel_index(np.argmax(error), error.shape) if error.size else ()
        assert error.size == 0 or error[at] <= allowed.max, (
            f"{role}{list(map(int, at))} is {actual[at]}, expected {expected[at]}, "
            f"error allowed {allowed.max}"
        )
        counts = np.maximum(finite.sum(axis=(2, 3)), 1)
        rms = np.sqrt(np.square(error).sum(axis=(2, 3)) / counts)
        assert (rms <= allowed.rms).all(), (
            f"{role}: RMS errors of the heads {rms}, allowed {allowed.rms}"
        )

    def untouched(self, *written: str) -> None:
        """Inputs are as they were, and so is what lies around the elements of an output."""
        before = self.case.memory()
        for role in written:
            tensor = self.case.tensors[role]
            tensor.view(before[tensor.buffer])[...] = 0
            tensor.view(self.memory[tensor.buffer])[...] = 0
        for number, bytes_before in before.items():
            np.testing.assert_array_equal(self.memory[number], bytes_before, err_msg=str(number))


def unsupported(problem: umfa.Unsupported) -> None:
    """Skips a test, unless skips are failures."""
    if os.environ.get("MFA_REQUIRE_ALL"):
        raise problem
    pytest.skip(str(problem))


@pytest.mark.parametrize("case", FORWARD, indirect=True)
def test_forward(shared: umfa.MFAContext, case: Case) -> None:
    live = Live(case)
    try:
        out, logsumexp = umfa.flash_attention_forward(
            shared,
            *live.operands(),
            **live.options(),
            out=live.tensor("output"),
            return_logsumexp=True,
        )
    except umfa.Unsupported as problem:
        return unsupported(problem)
    if "output" in case.values:
        live.check("output", out)
    if "logsumexp" in case.values:
        live.check("logsumexp", logsumexp)
    return live.untouched("output")


@pytest.mark.parametrize("case", BACKWARD, indirect=True)
def test_backward(shared: umfa.MFAContext, case: Case) -> None:
    live = Live(case)
    need = tuple(f"grad_{name}" in case.tensors for name in ("query", "key", "value"))
    extra = [f"grad_{name}" for name in ("mask", "sinks") if f"grad_{name}" in case.tensors]
    keywords: dict[str, Any] = {**live.options(), "clip": bool(case.flags & CLIP), "need": need}
    keywords.update(dict.fromkeys(extra, True))
    q, k, v = live.operands()
    try:
        gradients = umfa.flash_attention_backward(
            shared,
            live.tensor("grad_output"),
            q,
            k,
            v,
            live.tensor("given_output"),
            live.tensor("given_logsumexp")[..., 0],
            **keywords,
        )
    except umfa.Unsupported as problem:
        return unsupported(problem)
    roles = ["grad_query", "grad_key", "grad_value", *extra]
    for role, gradient in zip(roles, gradients):
        if role in case.tensors:
            live.check(role, gradient)
    return live.untouched()


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
        rotate=quantization.rotated,
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
