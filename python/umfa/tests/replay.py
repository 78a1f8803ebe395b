"""A case of the conformance vectors through the package's functions."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import vectors
from vectors import NONE, Case

import umfa

PRECISIONS = {vectors.INT8: "int8", vectors.INT4: "int4"}
GRANULARITIES = ["tensor", "row", "block", "channel"]
CLIP = 2
SCALE, CAUSAL, WINDOW = 1, 2, 4


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
            rotated=bool(quantization.rotated),
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


def run_forward(context: umfa.MFAContext, case: Case) -> None:
    """Computes O and logsumexp and checks them; skips what the driver does not support."""
    live = Live(case)
    out = live.tensor("output")
    try:
        out, logsumexp = umfa.flash_attention_forward(
            context, *live.operands(), **live.options(), out=out, return_logsumexp=True
        )
    except umfa.Unsupported as problem:
        return unsupported(problem)
    if "output" in case.values:
        live.check("output", out)
    if "logsumexp" in case.values:
        live.check("logsumexp", logsumexp)
    return live.untouched("output")


def run_backward(context: umfa.MFAContext, case: Case) -> None:
    """Computes the gradients that the case asks for and checks them, likewise."""
    live = Live(case)
    need = tuple(f"grad_{name}" in case.tensors for name in ("query", "key", "value"))
    extra = [f"grad_{name}" for name in ("mask", "sinks") if f"grad_{name}" in case.tensors]
    keywords: dict[str, Any] = {**live.options(), "clip": bool(case.flags & CLIP), "need": need}
    keywords.update(dict.fromkeys(extra, True))
    q, k, v = live.operands()
    try:
        gradients = umfa.flash_attention_backward(
            context,
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
