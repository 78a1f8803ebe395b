"""Calls that must be refused: a valid case, one thing wrong with it, and the status that says so.

3  a shape, a stride or their product is not legal
5  anything else: a missing tensor, an unknown enumerator, a number that is not finite,
   a buffer too small
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from reference.portable import normal
from reference.precision import FP32

from .attention import Attention, Mask, build
from .record import NO_BUFFER, Quantization, Record
from .roundings import Rounding, build_dequantize, build_quantize
from .views import Shape, place

DIMENSIONS, ARGUMENT = 3, 5
HUGE = 2**62

Change = Callable[[Record], None]


@dataclass(frozen=True)
class Fault:
    name: str
    status: int
    change: Change
    base: Attention = field(default_factory=lambda: FORWARD)


FORWARD = Attention("base", d=4, nq=3, nk=5, grad=None)
INT8 = replace(FORWARD, k="int8")
ROWS = replace(FORWARD, k="int8/row")
BLOCKS = replace(FORWARD, v="int8/block:2+asym")
INT4 = replace(FORWARD, k="int4")
MASKED = replace(FORWARD, mask=Mask("fp32", "1hqk"))
SINKS = replace(FORWARD, sinks=True)
ALIBI = replace(FORWARD, alibi="1h")
VARLEN = replace(FORWARD, lengths=((1, 2), (2, 3)))
WINDOW = replace(FORWARD, window=(1, 1))
BACKWARD = replace(FORWARD, grad="fp32", forward=False)
BACKWARD_MASKED = replace(MASKED, grad="fp32", forward=False)
BACKWARD_BOOL = replace(FORWARD, mask=Mask("bool", "1hqk"), grad="fp32", forward=False)


def tensor(role: str, **changes: object) -> Change:
    def change(record: Record) -> None:
        record.tensors[role] = replace(record.tensors[role], **changes)

    return change


def shape(role: str, axis: int, size: int) -> Change:
    def change(record: Record) -> None:
        old = list(record.tensors[role].shape)
        old[axis] = size
        record.tensors[role].shape = (old[0], old[1], old[2], old[3])

    return change


def stride(role: str, axis: int, size: int) -> Change:
    def change(record: Record) -> None:
        old = list(record.tensors[role].strides)
        old[axis] = size
        record.tensors[role].strides = (old[0], old[1], old[2], old[3])

    return change


def quantization(role: str, **changes: object) -> Change:
    def change(record: Record) -> None:
        record.quantizations[role] = replace(record.quantizations[role], **changes)

    return change


def options(**changes: object) -> Change:
    def change(record: Record) -> None:
        assert record.options is not None
        record.options = replace(record.options, **changes)

    return change


def both(*changes: Change) -> Change:
    def change(record: Record) -> None:
        for one in changes:
            one(record)

    return change


def absent(role: str) -> Change:
    def change(record: Record) -> None:
        del record.tensors[role]
        record.quantizations.pop(role, None)

    return change


def shorter(role: str, by: int = 1) -> Change:
    return lambda record: record.resize(role, -by)


def unquantized(role: str) -> Change:
    def change(record: Record) -> None:
        del record.quantizations[role]

    return change


def cu_seqlens(values: list[int]) -> Change:
    def change(record: Record) -> None:
        assert record.varlen is not None
        count, _, _, k, k_offset = record.varlen
        record.varlen = (count, record.data(np.array(values, "<i4").tobytes()), 0, k, k_offset)

    return change


def short_buffer(role: str, name: str) -> Change:
    """Cut a buffer of the tensor's quantization by a byte."""

    def change(record: Record) -> None:
        buffer = getattr(record.quantizations[role], name)
        offset, size = record.buffers[buffer]
        record.buffers[buffer] = (offset, size - 1)

    return change


def flags(value: int) -> Change:
    return lambda record: setattr(record, "flags", value)


def stray_gradient(of: str, sizes: Shape) -> Change:
    """A gradient for something that has none."""
    return lambda record: record.output(of, FP32, place(sizes, "packed"))


def head_dimension(columns: int) -> Change:
    """Query and key with this many columns, in buffers that have room for them."""

    def change(record: Record) -> None:
        for role in ("query", "key"):
            old = record.tensors[role]
            record.output(role, old.precision, place((*old.shape[:3], columns), "packed"))

    return change


def huge_batch(record: Record) -> None:
    for role in record.tensors:
        shape(role, 0, HUGE)(record)


def empty_scale(record: Record) -> None:
    record.quantizations["key"] = replace(record.quantizations["key"], scale_buffer=NO_BUFFER)


ATTENTION_FAULTS = [
    Fault("no_query", ARGUMENT, absent("query")),
    Fault("no_key", ARGUMENT, absent("key")),
    Fault("no_value", ARGUMENT, absent("value")),
    Fault("unknown_precision", ARGUMENT, tensor("query", precision=3)),
    Fault("negative_precision", ARGUMENT, tensor("key", precision=-1)),
    Fault("bool_query", ARGUMENT, tensor("query", precision=16)),
    Fault("int8_output", ARGUMENT, tensor("output", precision=8)),
    Fault("fp16_logsumexp", ARGUMENT, tensor("logsumexp", precision=1)),
    Fault("head_dim_1025", DIMENSIONS, head_dimension(1025)),
    Fault("head_dim_mismatch", DIMENSIONS, shape("query", 3, 3)),
    Fault("value_dim_0", DIMENSIONS, shape("value", 3, 0)),
    Fault("value_rows_mismatch", DIMENSIONS, shape("value", 2, 4)),
    Fault("value_heads_mismatch", DIMENSIONS, shape("value", 1, 1)),
    Fault("batch_mismatch", DIMENSIONS, shape("key", 0, 1), replace(FORWARD, batch=2)),
    Fault(
        "heads_not_a_multiple",
        DIMENSIONS,
        shape("query", 1, 3),
        replace(FORWARD, heads=4, kv_heads=2),
    ),
    Fault("output_rows_mismatch", DIMENSIONS, shape("output", 2, 2)),
    Fault("output_columns_mismatch", DIMENSIONS, shape("output", 3, 3)),
    Fault("logsumexp_mismatch", DIMENSIONS, shape("logsumexp", 2, 2)),
    Fault("shape_product_overflows", DIMENSIONS, huge_batch),
    Fault("stride_product_overflows", DIMENSIONS, stride("query", 2, HUGE)),
    Fault("negative_stride", DIMENSIONS, stride("query", 2, -4)),
    Fault("output_broadcast", DIMENSIONS, stride("output", 2, 0)),
    Fault("misaligned_offset", ARGUMENT, tensor("query", offset=2)),
    Fault("offset_beyond_buffer", ARGUMENT, tensor("query", offset=1 << 40)),
    Fault("offset_overflows", ARGUMENT, tensor("query", offset=2**64 - 4)),
    Fault("query_one_byte_short", ARGUMENT, shorter("query")),
    Fault("value_one_byte_short", ARGUMENT, shorter("value")),
    Fault("output_one_byte_short", ARGUMENT, shorter("output")),
    Fault("logsumexp_one_byte_short", ARGUMENT, shorter("logsumexp")),
    Fault(
        "fp32_with_quantization",
        ARGUMENT,
        lambda r: r.quantizations.update(query=Quantization(scale=1.0)),
        INT8,
    ),
    Fault("int8_without_quantization", ARGUMENT, unquantized("key"), INT8),
    Fault("scale_nan", ARGUMENT, quantization("key", scale=float("nan")), INT8),
    Fault("scale_infinite", ARGUMENT, quantization("key", scale=float("inf")), INT8),
    Fault("scale_zero", ARGUMENT, quantization("key", scale=0.0), INT8),
    Fault("zero_point_too_large", ARGUMENT, quantization("key", zero_point=128), INT8),
    Fault("zero_point_too_large_int4", ARGUMENT, quantization("key", zero_point=8), INT4),
    Fault("unknown_granularity", ARGUMENT, quantization("key", granularity=4), INT8),
    Fault("row_without_scales", ARGUMENT, empty_scale, ROWS),
    Fault("row_group_33", ARGUMENT, quantization("key", group_size=33), ROWS),
    Fault("block_rows_0", ARGUMENT, quantization("value", block_rows=0), BLOCKS),
    Fault("scale_precision_bf16", ARGUMENT, quantization("key", scale_precision=2), ROWS),
    Fault("scales_one_byte_short", ARGUMENT, short_buffer("key", "scale_buffer"), ROWS),
    Fault(
        "zero_points_one_byte_short", ARGUMENT, short_buffer("value", "zero_point_buffer"), BLOCKS
    ),
    Fault("zero_point_bytes_2", ARGUMENT, quantization("value", zero_point_bytes=2), BLOCKS),
    Fault("rotated_2", ARGUMENT, quantization("key", rotated=2), INT8),
    Fault("int4_odd_columns", DIMENSIONS, head_dimension(3), INT4),
    Fault("int4_column_stride", DIMENSIONS, stride("key", 3, 2), INT4),
    Fault("int4_odd_stride", DIMENSIONS, stride("key", 2, 5), INT4),
    Fault("int4_one_byte_short", ARGUMENT, shorter("key"), INT4),
    Fault("softmax_scale_nan", ARGUMENT, options(flags=1, scale=float("nan"))),
    Fault("softmax_scale_infinite", ARGUMENT, options(flags=1, scale=float("inf"))),
    Fault("softcap_negative", ARGUMENT, options(softcap=-1.0)),
    Fault("softcap_infinite", ARGUMENT, options(softcap=float("inf"))),
    Fault("unknown_option", ARGUMENT, options(flags=8)),
    Fault("unknown_alignment", ARGUMENT, options(alignment=2)),
    Fault("unknown_compute", ARGUMENT, options(compute=2)),
    Fault("window_left_minus_2", ARGUMENT, options(window_left=-2), WINDOW),
    Fault("window_right_minus_2", ARGUMENT, options(window_right=-2), WINDOW),
    Fault("mask_precision_int8", ARGUMENT, tensor("mask", precision=8), MASKED),
    Fault("mask_does_not_broadcast", DIMENSIONS, shape("mask", 3, 4), MASKED),
    Fault("mask_heads_do_not_broadcast", DIMENSIONS, shape("mask", 1, 3), replace(MASKED, heads=4)),
    Fault("mask_one_byte_short", ARGUMENT, shorter("mask"), MASKED),
    Fault("sinks_heads_mismatch", DIMENSIONS, shape("sinks", 1, 2), replace(SINKS, heads=4)),
    Fault("sinks_int8", ARGUMENT, tensor("sinks", precision=8), SINKS),
    Fault("alibi_heads_mismatch", DIMENSIONS, shape("alibi_slopes", 1, 2), replace(ALIBI, heads=4)),
    Fault("cu_seqlens_not_from_0", ARGUMENT, cu_seqlens([1, 2, 3]), VARLEN),
    Fault("cu_seqlens_falls", ARGUMENT, cu_seqlens([0, 4, 3]), VARLEN),
    Fault("cu_seqlens_too_long", ARGUMENT, cu_seqlens([0, 1, 4]), VARLEN),
    Fault("cu_seqlens_buffer_short", ARGUMENT, cu_seqlens([0, 3]), VARLEN),
    Fault("backward_no_logsumexp", ARGUMENT, absent("given_logsumexp"), BACKWARD),
    Fault("backward_grad_output_mismatch", DIMENSIONS, shape("grad_output", 3, 3), BACKWARD),
    Fault("backward_grad_query_fp16", ARGUMENT, tensor("grad_query", precision=1), BACKWARD),
    Fault("backward_grad_key_mismatch", DIMENSIONS, shape("grad_key", 2, 4), BACKWARD),
    Fault("backward_grad_value_broadcast", DIMENSIONS, stride("grad_value", 2, 0), BACKWARD),
    Fault("backward_grad_value_one_byte_short", ARGUMENT, shorter("grad_value"), BACKWARD),
    Fault("backward_d_given_absent", ARGUMENT, both(absent("d_values"), flags(1)), BACKWARD),
    Fault("backward_unknown_flag", ARGUMENT, flags(4), BACKWARD),
    Fault("backward_mask_gradient_mismatch", DIMENSIONS, shape("grad_mask", 3, 4), BACKWARD_MASKED),
    Fault(
        "backward_bool_mask_gradient",
        ARGUMENT,
        stray_gradient("grad_mask", (1, 2, 3, 5)),
        BACKWARD_BOOL,
    ),
    Fault(
        "backward_mask_gradient_without_mask",
        ARGUMENT,
        stray_gradient("grad_mask", (1, 2, 3, 5)),
        BACKWARD,
    ),
    Fault(
        "backward_sink_gradient_without_sinks",
        ARGUMENT,
        stray_gradient("grad_sinks", (1, 2, 1, 1)),
        BACKWARD,
    ),
]


def build_fault(fault: Fault) -> Record:
    record = build(replace(fault.base, name=f"fault_{fault.name}"))
    fault.change(record)
    record.status = fault.status
    return record


def _holding(x: float) -> Callable[[str, Shape], np.ndarray]:
    def values(name: str, sizes: Shape) -> np.ndarray:
        result = normal(name, sizes)
        result[0, -1, -1, -1] = x
        return result

    return values


@dataclass(frozen=True)
class RoundingFault:
    name: str
    status: int
    change: Change | None = None
    to: str = "int8"
    poison: float | None = None
    dequantize: bool = False


ROUNDING_FAULTS = [
    RoundingFault("quantize_nan", ARGUMENT, poison=float("nan")),
    RoundingFault("quantize_infinity", ARGUMENT, poison=float("inf")),
    RoundingFault("quantize_minus_infinity_row", ARGUMENT, to="int8/row", poison=float("-inf")),
    RoundingFault("quantize_integer_source", ARGUMENT, tensor("source", precision=8)),
    RoundingFault("quantize_to_fp16", ARGUMENT, tensor("destination", precision=1)),
    RoundingFault("quantize_shape_mismatch", DIMENSIONS, shape("destination", 2, 2)),
    RoundingFault("quantize_no_destination", ARGUMENT, absent("destination")),
    RoundingFault("quantize_no_quantization", ARGUMENT, unquantized("destination")),
    RoundingFault(
        "quantize_no_scales", ARGUMENT, quantization("destination", scale_buffer=NO_BUFFER)
    ),
    RoundingFault(
        "quantize_scales_short", ARGUMENT, short_buffer("destination", "scale_buffer"), "int8/row"
    ),
    RoundingFault("quantize_no_zero_points", ARGUMENT, flags(1)),
    RoundingFault("quantize_no_mean", ARGUMENT, flags(2)),
    RoundingFault("quantize_unknown_flag", ARGUMENT, flags(16)),
    RoundingFault("quantize_destination_short", ARGUMENT, shorter("destination")),
    RoundingFault("quantize_source_short", ARGUMENT, shorter("source")),
    RoundingFault("quantize_destination_broadcast", DIMENSIONS, stride("destination", 2, 0)),
    RoundingFault("dequantize_no_quantization", ARGUMENT, unquantized("source"), dequantize=True),
    RoundingFault(
        "dequantize_float_source", ARGUMENT, tensor("source", precision=0), dequantize=True
    ),
    RoundingFault(
        "dequantize_to_int8", ARGUMENT, tensor("destination", precision=8), dequantize=True
    ),
    RoundingFault(
        "dequantize_shape_mismatch", DIMENSIONS, shape("destination", 3, 2), dequantize=True
    ),
    RoundingFault(
        "dequantize_destination_short", ARGUMENT, shorter("destination"), dequantize=True
    ),
]


def build_rounding_fault(fault: RoundingFault) -> Record:
    case = Rounding(f"fault_{fault.name}", fault.to, (1, 2, 3, 4))
    record = build_dequantize(case, "fp32") if fault.dequantize else build_quantize(case)
    if fault.poison is not None:
        source = record.tensors["source"]
        values = _holding(fault.poison)(case.name, case.shape)
        source.buffer = record.data(values.astype("<f4").tobytes())
    if fault.change is not None:
        fault.change(record)
    record.status = fault.status
    record.expectations.clear()
    return record
