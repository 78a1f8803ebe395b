"""The conformance vectors through the Python package: what it returns, in the folder MFA_RESULTS.

Tests of the package judge the same calls (python/umfa/tests/test_conformance.py); here they are only
made and recorded, refusals included. What the package has no argument for is recorded as skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "python" / "umfa" / "tests"))

import vectors
from replay import CAUSAL, CLIP, GRANULARITIES, PRECISIONS, SCALE, WINDOW, Live
from vectors import BF16, FP16, FP32, INT4, INT8, NONE, Case

import umfa

FLOATS = {FP32: "float32", FP16: "float16", BF16: "bfloat16"}
ITEM_BITS = {FP32: 32, FP16: 16, BF16: 16, INT4: 4, INT8: 8, vectors.BOOL: 8}
GRADIENTS = ("grad_query", "grad_key", "grad_value", "grad_mask", "grad_sinks")
D_GIVEN = 1
ASYMMETRIC, SMOOTH, MEAN_GIVEN, SCALE_GIVEN = 1, 2, 4, 8


class Inexpressible(Exception):
    """The package has no argument for this."""


class Results:
    """The two files, whose grammar README.md gives."""

    def __init__(self, index: TextIO, content: BinaryIO, device: str) -> None:
        self.index, self.content, self.offset = index, content, 0
        print(f"mfa-results 1\ndevice {device}", file=index)

    def skip(self, case: Case, call: str, reason: str) -> None:
        print(f"skip {case.name} {call} {reason}", file=self.index)

    def call(self, case: Case, call: str, status: int, message: str = "") -> None:
        print(f"call {case.name} {call} {status}", file=self.index)
        if status:
            print("message", " ".join(message.split()), file=self.index)

    def array(self, name: str, values: Any) -> None:
        data = np.ascontiguousarray(values).tobytes()
        print(f"array {name} {self.offset} {len(data)}", file=self.index)
        self.content.write(data)
        self.offset += len(data)


def reachable(case: Case, role: str) -> None:
    """NumPy must not be asked for views that leave their memory."""
    tensor = case.tensors[role]
    if tensor.precision not in ITEM_BITS:
        raise Inexpressible(f"no dtype has precision {tensor.precision}")
    if any(stride < 0 for stride in tensor.strides):
        raise Inexpressible("the array would begin before its memory")
    if 0 in tensor.shape:
        return
    elements = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides)) + 1
    size = case.data[tensor.buffer][1] if tensor.buffer in case.data else case.rooms[tensor.buffer]
    if tensor.offset + -(-elements * ITEM_BITS[tensor.precision] // 8) > size:
        raise Inexpressible("the array would end behind its memory")
    if tensor.precision == INT4 and (
        tensor.strides[3] != 1 or any(n % 2 for n in (*tensor.strides[:3], tensor.shape[3]))
    ):
        raise Inexpressible("an array of bytes cannot begin a row within one")


def parameters_reachable(case: Case, role: str) -> None:
    """The same for scales, zero points and means."""
    quantization, shape = case.quantizations[role], case.tensors[role].shape
    if quantization.granularity not in range(len(GRANULARITIES)):
        raise Inexpressible("there is no such granularity by name")
    if quantization.scale_precision not in (FP32, FP16):
        raise Inexpressible("no dtype of scales has this precision")
    if quantization.granularity and quantization.scale_buffer == NONE:
        raise Inexpressible("scales are not optional")
    if quantization.rotated not in (0, 1):
        raise Inexpressible("rotated is a bool")
    if quantization.scale_buffer == NONE and not -128 <= quantization.zero_point <= 127:
        raise Inexpressible("no dtype of zero points holds this one")
    if quantization.zero_point_bytes not in (0, 1, 4):
        raise Inexpressible("no dtype of zero points has this size")
    if quantization.granularity >= 2 and not quantization.block_rows:
        raise Inexpressible("block_rows of 0 is the package's default")
    sizes = quantization.scale_shape(shape)
    strides = quantization._strides(sizes)
    extent = sum((size - 1) * stride for size, stride in zip(sizes, strides)) + 1
    item = 4 if quantization.scale_precision == FP32 else 2
    for buffer, offset, width in (
        (quantization.scale_buffer, quantization.scale_offset, item),
        (
            quantization.zero_point_buffer,
            quantization.zero_point_offset,
            quantization.zero_point_bytes,
        ),
    ):
        if buffer == NONE:
            continue
        size = case.data[buffer][1] if buffer in case.data else case.rooms[buffer]
        if 0 not in sizes and offset + extent * width > size:
            raise Inexpressible("the array would end behind its memory")


def expressible(case: Case, roles: tuple[str, ...]) -> None:
    flags, _, _, alignment, compute, *_ = case.options
    if int(flags) & ~(SCALE | CAUSAL | WINDOW) or alignment not in (0, 1) or compute not in (0, 1):
        raise Inexpressible("there is no such option by name")
    for role in roles:
        if role in case.tensors:
            reachable(case, role)
        if role in case.quantizations:
            if case.tensors[role].precision not in PRECISIONS:
                raise Inexpressible("floating-point arrays have no quantization")
            parameters_reachable(case, role)
    for role in {"alibi_slopes", "sinks"} & set(case.tensors):
        if case.status and case.tensors[role].precision != FP32:
            raise Inexpressible("the package converts these numbers")
    if "query" in set(roles) & set(case.tensors) and case.tensors["query"].shape[3] == 0:
        raise Inexpressible("the package answers without columns itself")
    for role in set(roles) & {"query", "key", "value"} - set(case.tensors):
        raise Inexpressible(f"{role} is not optional")
    if case.varlen:
        count, query, q_offset, key, k_offset = case.varlen
        for number, offset in ((query, q_offset), (key, k_offset)):
            if offset or case.data[number][1] != 4 * (count + 1):
                raise Inexpressible("the number of sequences is the length of cu_seqlens")


OPERANDS = ("query", "key", "value", "mask", "alibi_slopes", "sinks")


def forward(context: umfa.MFAContext, case: Case, results: Results) -> None:
    expressible(case, (*OPERANDS, "output"))
    wanted = "logsumexp" in case.tensors
    if wanted and case.status:
        statistics = case.tensors["logsumexp"]
        rows = [*case.tensors["output"].shape[:3], 1]
        if statistics.precision != FP32 or statistics.shape != rows:
            raise Inexpressible("the package makes the array of logsumexp")
        reachable(case, "logsumexp")
    live = Live(case)
    out, logsumexp = umfa.flash_attention_forward(
        context,
        *live.operands(),
        **live.options(),
        out=live.tensor("output"),
        return_logsumexp=True,
    )
    results.call(case, "forward", 0)
    results.array("output", out)
    if wanted:
        results.array("logsumexp", logsumexp)


def backward(context: umfa.MFAContext, case: Case, results: Results) -> None:
    expressible(case, (*OPERANDS, "grad_output", "given_output", "given_logsumexp"))
    if case.flags & ~CLIP:
        raise Inexpressible("there is no argument for D, or for unknown flags")
    if "given_logsumexp" not in case.tensors:
        raise Inexpressible("logsumexp is not optional")
    for role in GRADIENTS:
        operand = {"grad_mask": "mask", "grad_sinks": "sinks"}.get(role, role[len("grad_") :])
        if role not in case.tensors:
            continue
        reachable(case, role)
        made = operand in case.tensors and case.tensors[role].shape == case.tensors[operand].shape
        whole = 0 not in case.tensors[role].strides
        if case.status and not (case.tensors[role].precision == FP32 and made and whole):
            raise Inexpressible("the package makes the arrays of gradients")
    need = tuple(role in case.tensors for role in GRADIENTS[:3])
    if not any(need):
        raise Inexpressible("the package has no call for D alone")
    live = Live(case)
    extra = [role for role in GRADIENTS[3:] if role in case.tensors]
    gradients = umfa.flash_attention_backward(
        context,
        live.tensor("grad_output"),
        *live.operands(),
        live.tensor("given_output"),
        live.tensor("given_logsumexp")[..., 0],
        **live.options(),
        clip=bool(case.flags & CLIP),
        need=need,
        **dict.fromkeys(extra, True),
    )
    results.call(case, "backward", 0)
    for role, gradient in zip((*GRADIENTS[:3], *extra), gradients):
        if role in case.tensors:
            results.array(role, gradient)


def quantize(context: umfa.MFAContext, case: Case, results: Results) -> None:
    if "destination" not in case.quantizations:
        raise Inexpressible("the package makes the array and its scales")
    expressible(case, ("source", "destination"))
    target, quantization = case.tensors["destination"], case.quantizations["destination"]
    made = target.shape == case.tensors["source"].shape and 0 not in target.strides
    if case.status and not made:
        raise Inexpressible("the package makes the array and its scales")
    if case.flags & ~(ASYMMETRIC | SMOOTH | MEAN_GIVEN | SCALE_GIVEN):
        raise Inexpressible("there is no such option by name")
    asymmetric, smooth = bool(case.flags & ASYMMETRIC), bool(case.flags & SMOOTH)
    if quantization.scale_buffer == NONE or (asymmetric and quantization.zero_point_buffer == NONE):
        raise Inexpressible("the package makes the array and its scales")
    if smooth and quantization.mean_buffer == NONE:
        raise Inexpressible("the package makes the array of means")
    live = Live(case)
    shape, given = target.shape, {}
    if case.flags & MEAN_GIVEN:
        given["mean"] = quantization.means(live.memory[quantization.mean_buffer], shape)
    if case.flags & SCALE_GIVEN:
        given["scale"] = quantization.scales(live.memory[quantization.scale_buffer], shape)
        if quantization.zero_point_buffer != NONE:
            memory = live.memory[quantization.zero_point_buffer]
            given["zero_point"] = quantization.zero_points(memory, shape)
    tensor = umfa.quantize(
        live.tensor("source"),
        PRECISIONS[target.precision],  # type: ignore[arg-type]
        GRANULARITIES[quantization.granularity],  # type: ignore[arg-type]
        block_rows=quantization.block_rows or 64,
        group=quantization.group_size or None,  # type: ignore[arg-type]
        symmetric=not asymmetric,
        scale_dtype=FLOATS[quantization.scale_precision],  # type: ignore[arg-type]
        zero_point_dtype="int32" if quantization.zero_point_bytes == 4 else "int8",
        smooth=smooth,
        rotate=bool(quantization.rotated),
        measure_error=True,
        context=context,
        **given,
    )
    results.call(case, "quantize", 0)
    results.array("destination", tensor.data)
    for name, buffer, values in (
        ("scales", quantization.scale_buffer, tensor.scale),
        ("zero_points", quantization.zero_point_buffer, tensor.zero_point),
        ("mean", quantization.mean_buffer, tensor.mean),
    ):
        if buffer in case.rooms:
            results.array(name, values)
    error = tensor.error
    assert error is not None
    report = [error.rmse, error.relative_rmse, error.max_abs, error.worst_row_rmse]
    results.array("report", np.array(report, "<f8"))


def dequantize(context: umfa.MFAContext, case: Case, results: Results) -> None:
    if "source" not in case.quantizations:
        raise Inexpressible("a quantized tensor has a quantization")
    expressible(case, ("source", "destination"))
    kind = FLOATS.get(case.tensors["destination"].precision)
    if kind is None:
        raise Inexpressible("no dtype of reals has this precision")
    live = Live(case)
    out = live.tensor("destination")
    found = live.tensor("source").dequantize(kind, out=out, context=context)
    results.call(case, "dequantize", 0)
    results.array("destination", found)


CALLS: dict[str, Callable[[umfa.MFAContext, Case, Results], None]] = {
    "forward": forward,
    "backward": backward,
    "quantize": quantize,
    "dequantize": dequantize,
}


def calls(case: Case) -> list[str]:
    """As every runner has them."""
    if case.call in ("quantize", "dequantize"):
        return [case.call]
    gradient = ["backward"] if "grad_output" in case.tensors else []
    return (["forward"] if "output" in case.tensors else []) + gradient


def main() -> None:
    folder = Path(os.environ["MFA_RESULTS"])
    with (
        umfa.MFAContext() as context,
        (folder / "results.txt").open("w", encoding="utf-8") as index,
        (folder / "results.bin").open("wb") as content,
    ):
        results = Results(index, content, context.device)
        for case in vectors.cases().values():
            for call in calls(case):
                try:
                    CALLS[call](context, case, results)
                except Inexpressible as reason:
                    results.skip(case, call, str(reason))
                except umfa.MFAError as refusal:
                    results.call(case, call, int(refusal.code), str(refusal))
        print("end", file=index)


if __name__ == "__main__":
    main()
