"""Cases of mfa_quantize and mfa_dequantize: integers, scales, zero points, means to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from reference.errorrule import FORWARD_FACTOR, Bound, kept_in_fp32, norms
from reference.portable import normal
from reference.precision import FP16, FP32, INT4, NAMES, UNIT, elements, pack_int4, rounded
from reference.quantize import Quantized, dequantize, expand, hadamard, quantize

from .operands import Description, describe, read_scales
from .record import Quantization, Record
from .views import Shape, View, lay, place

ASYMMETRIC, SMOOTH, MEAN_GIVEN, SCALE_GIVEN = 1, 2, 4, 8
ROOM = -1  # the element whose bytes are all 0xFF


def bell(name: str, shape: Shape) -> NDArray:
    return normal(name, shape)


def small_integers(name: str, shape: Shape) -> NDArray:
    """Numbers whose sums are exact in FP32 in any order, so that means and rotations are too."""
    return np.rint(1000 * normal(name, shape))


@dataclass(frozen=True)
class Rounding:
    name: str
    to: str
    shape: Shape = (1, 2, 6, 16)
    source: str = "fp32"
    values: Callable[[str, Shape], NDArray] = bell
    layouts: dict[str, str] = field(default_factory=dict)
    scale_given: bool = False
    mean_given: bool = False


def _stored_mean(case: Rounding) -> NDArray[np.float32] | None:
    batch, heads, _, columns = case.shape
    return (
        np.rint(4 * normal(f"{case.name} mean", (batch, heads, columns))).astype(np.float32)
        if case.mean_given
        else None
    )


def _with_given_scales(x: NDArray, description: Description, first: Quantized) -> Quantized:
    """The same tensor rounded with scales too small for its largest elements."""
    scheme = description.scheme
    scale = (np.abs(first.scale) * np.float32(0.75)).astype(np.float32)
    if scheme.scale_precision == FP16:
        scale = rounded(scale, FP16).astype(np.float32)
    n = np.rint(x.astype(np.float32) / expand(scale, x.shape, scheme)) + expand(
        first.zero_point, x.shape, scheme
    )
    lowest = scheme.lowest if scheme.asymmetric else scheme.lowest + 1
    data = np.clip(n, lowest, scheme.lowest + scheme.steps).astype(np.int8)
    return Quantized(scheme, data, scale, first.zero_point, first.mean)


def _in_doubt(x: NDArray, tensor: Quantized) -> bool:
    """Whether division and multiplication by the inverse may round an element apart: near a tie."""
    real = x - (0 if tensor.mean is None else tensor.mean.astype(np.float64)[:, :, None, :])
    if tensor.scheme.rotated:
        real = hadamard(real)
    scale = expand(tensor.scale.astype(np.float64), x.shape, tensor.scheme)
    near = np.abs(np.abs(real / scale) % 1 - 0.5) < 5e-5
    power_of_two = np.frexp(scale)[0] == 0.5
    return bool((near & ~power_of_two).any())


def _certain(case: Rounding, description: Description) -> tuple[NDArray, Quantized]:
    """The first numbers of the case's kind that leave nothing in doubt, and what they become."""
    for attempt in range(100):
        x = rounded(case.values(f"{case.name} {attempt}", case.shape), NAMES[case.source])
        tensor = quantize(x, description.scheme, _stored_mean(case))
        if case.scale_given:
            tensor = _with_given_scales(x, description, tensor)
        if not _in_doubt(x, tensor):
            return x, tensor
    raise ValueError(f"case {case.name}: no numbers without an element near a tie in 100 attempts")


def _output_buffer(record: Record, view: View, stored: NDArray, precision: int) -> int:
    """Room whose whole content is expected: the elements, and untouched gaps."""
    storage = lay(view, stored, ROOM)
    content = pack_int4(storage).tobytes() if precision == INT4 else storage.tobytes()
    buffer = record.room(len(content))
    record.expect_bytes(buffer, content)
    return buffer


def _written_scales(
    record: Record, tensor: Quantized, words: frozenset[str], layout: str
) -> Quantization:
    scheme = tensor.scheme
    result = Quantization(
        scheme.granularity, scheme.block_rows, scheme.group_size, rotated=int(scheme.rotated)
    )
    view = place(tensor.scale.shape, "padded" if "strided" in words else "packed")
    stored = elements(tensor.scale, scheme.scale_precision)
    integers = f"<i{stored.itemsize}"
    storage = lay(view, stored.view(integers), ROOM).tobytes()
    result.scale_precision = scheme.scale_precision
    result.scale_buffer = record.room(len(storage))
    result.scale_offset = view.byte_offset(scheme.scale_precision)
    record.expect_bytes(result.scale_buffer, storage)
    if "strided" in words or layout != "packed":
        result.scale_strides = view.strides
    if scheme.asymmetric:
        width = 4 if "zero32" in words else 1
        result.zero_point_bytes, result.zero_point_offset = width, view.start * width
        content = lay(view, tensor.zero_point.astype(f"<i{width}"), ROOM).tobytes()
        result.zero_point_buffer = record.room(len(content))
        record.expect_bytes(result.zero_point_buffer, content)
    return result


def build_quantize(case: Rounding) -> Record:
    record, description = Record(case.name, "quantize"), describe(case.to)
    scheme = description.scheme
    x, tensor = _certain(case, description)
    record.input(
        "source", x, NAMES[case.source], place(case.shape, case.layouts.get("source", "packed"))
    )
    record.flags = (ASYMMETRIC if scheme.asymmetric else 0) | (SMOOTH if scheme.smooth else 0)
    record.flags |= (MEAN_GIVEN if case.mean_given else 0) | (
        SCALE_GIVEN if case.scale_given else 0
    )
    layout = case.layouts.get("destination", "packed")
    view = place(case.shape, layout)
    buffer = _output_buffer(record, view, tensor.data, scheme.precision)
    record.output("destination", scheme.precision, view)
    record.buffers.pop()
    record.tensors["destination"].buffer = buffer
    if case.scale_given:
        quantization = read_scales(record, tensor, description.words | {"buffer"}, layout)
    else:
        quantization = _written_scales(record, tensor, description.words, layout)
    if tensor.mean is not None and quantization.mean_buffer < 0:
        content = tensor.mean.astype("<f4").tobytes()
        if case.mean_given:
            quantization.mean_buffer = record.data(content)
        else:
            quantization.mean_buffer = record.room(len(content))
            record.expect_bytes(quantization.mean_buffer, content)
    record.quantizations["destination"] = quantization
    _expect_error_report(record, x, dequantize(tensor))
    return record


def _expect_error_report(record: Record, x: NDArray, real: NDArray) -> None:
    error = real - x
    rmse = float(np.sqrt(np.mean(error**2))) if error.size else 0.0
    size = float(np.sqrt(np.mean(x**2))) if x.size else 0.0
    rows = np.sqrt(np.mean(error**2, axis=-1)) if error.size else np.zeros(1)
    figures = (
        rmse,
        rmse / size if size else 0.0,
        float(np.abs(error).max(initial=0.0)),
        float(rows.max(initial=0.0)),
    )
    record.expectations.append("error " + " ".join(f"{f:.6e}" for f in figures))


def build_dequantize(case: Rounding, to: str) -> Record:
    """The destination's precision is `to`."""
    record, description = Record(case.name, "dequantize"), describe(case.to)
    scheme = description.scheme
    tensor = quantize(case.values(case.name, case.shape), scheme)
    layout = case.layouts.get("source", "packed")
    view = place(case.shape, layout)
    record.input("source", tensor.data, scheme.precision, view)
    record.quantizations["source"] = read_scales(record, tensor, description.words, layout)
    real = dequantize(tensor)
    record.output(
        "destination", NAMES[to], place(case.shape, case.layouts.get("destination", "packed"))
    )
    single = real.astype(np.float32)
    if scheme.rotated:
        integers = (tensor.data - expand(tensor.zero_point, case.shape, scheme)).astype(np.float32)
        single = hadamard(expand(tensor.scale, case.shape, scheme) * integers)
        if tensor.mean is not None:
            single = single + tensor.mean[:, :, None, :]
    naive = norms(rounded(single, NAMES[to]) - real, real)
    terms = np.abs(real) + (np.abs(tensor.mean)[:, :, None, :] if tensor.mean is not None else 0)
    noise = norms((UNIT[NAMES[to]] * np.abs(real) + UNIT[FP32] * terms) / 3.0**0.5, real)
    record.expect("destination", real, Bound(FORWARD_FACTOR, naive, noise, kept_in_fp32(real)))
    return record
