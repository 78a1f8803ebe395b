"""Tensors from a short description.

precision[/granularity[:number]][+word...]      "fp16", "int8/block:5+asym",
"int4/row:32+rotated+scale16"

granularity  tensor, row, row:32, row:64, block:ROWS, channel:ROWS
asym         zero points                      smooth   the column means are kept apart
rotated      Hadamard rotation                buffer   one scale, in a buffer
scale16      scales in FP16                   zero32   zero points as int32
strided      the scales are a view with gaps
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from reference.precision import BF16, BOOL, FP16, FP32, INTEGERS, NAMES, rounded
from reference.problem import Operand
from reference.quantize import (
    BLOCK,
    CHANNEL,
    ROW,
    TENSOR,
    Quantized,
    Scheme,
    dequantize,
    dequantize_deviation,
    inside,
    quantize,
    row_scale,
)

from .record import Quantization, Record
from .views import fill, lay, place

_GRANULARITIES = {"tensor": TENSOR, "row": ROW, "block": BLOCK, "channel": CHANNEL}
_WORDS = {"asym", "smooth", "rotated", "buffer", "scale16", "zero32", "strided"}


@dataclass(frozen=True)
class Description:
    precision: int
    scheme: Scheme
    words: frozenset[str]


def describe(text: str) -> Description:
    first, *rest = text.split("+")
    name, _, granularity = first.partition("/")
    kind, _, size = (granularity or "tensor").partition(":")
    words = frozenset(rest)
    if words - _WORDS:
        raise ValueError(
            f"unknown words {sorted(words - _WORDS)} in {text!r}; known are {sorted(_WORDS)}"
        )
    code = _GRANULARITIES[kind]
    scheme = Scheme(
        precision=NAMES[name],
        granularity=code,
        block_rows=int(size) if code in (BLOCK, CHANNEL) else 0,
        group_size=int(size or 0) if code == ROW else 0,
        asymmetric="asym" in words,
        smooth="smooth" in words,
        rotated="rotated" in words,
        scale_precision=FP16 if "scale16" in words else FP32,
    )
    return Description(NAMES[name], scheme, words)


def read_scales(
    record: Record, tensor: Quantized, words: frozenset[str], layout: str = "packed"
) -> Quantization:
    """The quantization of an input in one of LAYOUTS, with the buffers it needs."""
    scheme = tensor.scheme
    result = Quantization(
        scheme.granularity, scheme.block_rows, scheme.group_size, rotated=int(scheme.rotated)
    )
    if tensor.mean is not None:
        result.mean_buffer = record.data(tensor.mean.astype("<f4").tobytes())
    if scheme.granularity == TENSOR and "buffer" not in words:
        result.scale, result.zero_point = float(tensor.scale.item()), int(tensor.zero_point.item())
        return result
    view = place(tensor.scale.shape, "padded" if "strided" in words else "packed")
    result.scale_precision = scheme.scale_precision
    result.scale_buffer = record.data(fill(view, tensor.scale, scheme.scale_precision))
    result.scale_offset = view.byte_offset(scheme.scale_precision)
    if "strided" in words or layout != "packed":
        result.scale_strides = view.strides
    if scheme.asymmetric:
        width = 4 if "zero32" in words else 1
        stored = tensor.zero_point.astype(f"<i{width}")
        result.zero_point_bytes = width
        result.zero_point_buffer = record.data(lay(view, stored, 101).tobytes())
        result.zero_point_offset = view.start * width
    return result


def operand(tensor: Quantized) -> Operand:
    """What a quantized tensor stands for."""
    return Operand(
        values=dequantize(tensor),
        precision=tensor.scheme.precision,
        inside=inside(tensor),
        rotated=tensor.scheme.rotated,
        row_scale=row_scale(tensor),
        single=dequantize(tensor, np.float32),
        deviation=dequantize_deviation(tensor),
    )


def store(record: Record, role: str, values: NDArray, text: str, layout: str) -> Operand:
    """Put a tensor into the record; the real values that the driver will see."""
    description = describe(text)
    view = place(values.shape, layout)
    if description.precision in INTEGERS:
        tensor = quantize(values, description.scheme)
        record.input(role, tensor.data, description.precision, view)
        record.quantizations[role] = read_scales(record, tensor, description.words, layout)
        return operand(tensor)
    record.input(role, values, description.precision, view)
    if description.precision == BOOL:
        return Operand(values, BOOL)
    assert description.precision in (FP32, FP16, BF16)
    return Operand(rounded(values, description.precision), description.precision)
