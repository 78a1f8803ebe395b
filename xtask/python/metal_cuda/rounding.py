"""Quantizing and dequantizing of large tensors: the contract's rounding, to the bit.

As tests/conformance/reference/quantize.py, which goes group by group (a test holds them together);
sizes divide evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import storage as st
from .storage import BITS, BLOCK, CHANNEL, FP16, FP32, INT4, INT8, ROW, TENSOR, Shape, Storage

Array = Any

_ASYMMETRIC = 1


@dataclass(frozen=True)
class Call:
    name: str
    source: int
    destination: Storage
    shape: Shape
    family: int = 9

    @property
    def asymmetric(self) -> bool:
        return self.destination.zero_point_bytes > 0

    def parts(self) -> dict[str, int]:
        storage = self.destination
        return {"data": storage.bytes(self.shape), **_scale_bytes(storage, self.shape)}


def _scale_bytes(storage: Storage, shape: Shape) -> dict[str, int]:
    scales = st.count(storage.scale_shape(shape))
    sizes = {"scales": scales * (2 if storage.half_scales else 4)}
    if storage.zero_point_bytes:
        sizes["zero_points"] = scales * storage.zero_point_bytes
    return sizes


def recorder_call(call: Call, operation: str) -> dict[str, Any]:
    """`quantize` rounds buffer 0; `dequantize` writes it."""
    parts = call.parts()
    sizes = [st.count(call.shape) * BITS[call.source] // 8, *parts.values()]
    numbers = {part: number for number, part in enumerate(parts, 1)}
    strides = [st.count(call.shape[axis + 1 :]) for axis in range(4)]

    def tensor(buffer: int, precision: int) -> dict[str, Any]:
        return {
            "buffer": buffer,
            "byteOffset": 0,
            "precision": precision,
            "shape": list(call.shape),
            "strides": strides,
        }

    stored = tensor(1, call.destination.precision)
    stored["quantization"] = st.quantization(call.destination, numbers)
    real = tensor(0, call.source)
    roles = (real, stored) if operation == "quantize" else (stored, real)
    contents: list[dict[str, Any]] = [{"size": size} for size in sizes]
    return {
        "name": f"{call.name}/{operation}",
        "operation": operation,
        "family": call.family,
        "flags": _ASYMMETRIC if call.asymmetric and operation == "quantize" else 0,
        "buffers": contents,
        "tensors": {"source": roles[0], "destination": roles[1]},
        "options": {
            "flags": 0,
            "softmaxScale": 0,
            "softcap": 0,
            "alignment": 0,
            "windowLeft": 0,
            "windowRight": 0,
            "sequenceCount": 0,
            "cuSeqlensQOffset": 0,
            "cuSeqlensKOffset": 0,
        },
    }


@dataclass
class Rounded:
    source: Array
    """Bytes of the real numbers."""
    parts: dict[str, Array]
    """Bytes that rounding must give."""
    back: Array
    """float64: the real numbers that the stored integers must become."""


def rounded(xp: Any, call: Call, seed: int = 1) -> Rounded:
    rng = xp.random.default_rng(seed)
    storage, shape = call.destination, call.shape
    x = st.rounded(xp, rng.standard_normal(shape, dtype=xp.float32).astype(xp.float64), call.source)
    low, high = _extremes(x, storage)
    low, high = xp.minimum(low, 0), xp.maximum(high, 0)
    top = storage.top
    steps = 2 * top + 1 if call.asymmetric else top
    width = high - low if call.asymmetric else xp.maximum(high, -low)
    scale = st.rounded(xp, width / steps, FP16 if storage.half_scales else FP32)
    scale = xp.where(width == 0, 1.0, scale)
    lowest = -top - 1
    zeros = xp.zeros(scale.shape, xp.int32)
    if call.asymmetric:
        zeros = xp.clip(xp.rint(lowest - low / scale), lowest, top).astype(xp.int32)
    # In FP32, as the contract has it.
    ratio = x.astype(xp.float32) / st.expand(xp, scale.astype(xp.float32), storage, shape)
    n = xp.rint(ratio).astype(xp.int32) + st.expand(xp, zeros, storage, shape)
    codes = xp.clip(n, lowest if call.asymmetric else -top, top).astype(xp.int8)
    parts = {
        "data": st.stored_bytes(xp, codes, storage.precision),
        "scales": st.stored_bytes(xp, scale, FP16 if storage.half_scales else FP32),
    }
    if call.asymmetric:
        kind = xp.int8 if storage.zero_point_bytes == 1 else xp.int32
        parts["zero_points"] = xp.ascontiguousarray(zeros.astype(kind)).reshape(-1).view(xp.uint8)
    # The product in FP32, then its precision.
    real = st.expand(xp, scale, storage, shape) * (
        codes.astype(xp.float64) - st.expand(xp, zeros, storage, shape)
    )
    back = st.rounded(xp, st.rounded(xp, real, FP32), call.source)
    return Rounded(st.stored_bytes(xp, x, call.source), parts, back)


def _extremes(x: Array, storage: Storage) -> tuple[Array, Array]:
    """Of each group, in the shape of the scales."""
    batch, heads, rows, columns = x.shape
    if storage.granularity == TENSOR:
        groups, axes = x, (0, 1, 2, 3)
    elif storage.granularity == ROW:
        size = storage.group or columns
        groups, axes = x.reshape(batch, heads, rows, columns // size, size), (4,)
    elif storage.granularity == BLOCK:
        groups, axes = (
            x.reshape(batch, heads, rows // storage.block_rows, storage.block_rows * columns),
            (3,),
        )
    else:
        groups, axes = (
            x.reshape(batch, heads, rows // storage.block_rows, storage.block_rows, columns),
            (3,),
        )
    shape = storage.scale_shape(x.shape)
    return groups.min(axis=axes).reshape(shape), groups.max(axis=axes).reshape(shape)


def calls() -> list[Call]:
    shape = (4, 32, 4096, 128)
    return [
        Call("INT8 tensor", FP32, Storage(INT8, TENSOR), (2, 16, 4096, 128)),
        Call("INT8 row", FP16, Storage(INT8, ROW), shape),
        Call("INT8 row, zero points", FP32, Storage(INT8, ROW, zero_point_bytes=1), shape),
        Call("INT8 block", FP16, Storage(INT8, BLOCK, block_rows=64, zero_point_bytes=4), shape),
        Call("INT8 channel", FP16, Storage(INT8, CHANNEL, block_rows=128), shape),
        Call("INT4 row", FP32, Storage(INT4, ROW), shape),
        Call("INT4 groups of 32", FP16, Storage(INT4, ROW, group=32, half_scales=True), shape),
        Call(
            "INT4 groups of 64, zero points",
            FP16,
            Storage(INT4, ROW, group=64, zero_point_bytes=1),
            shape,
        ),
        Call(
            "INT4 channel, M1",
            FP16,
            Storage(INT4, CHANNEL, block_rows=32, half_scales=True),
            shape,
            family=7,
        ),
    ]


def operations(call: Call) -> list[str]:
    # The host reads a tensor-wise scale before the device runs: there is none to be read yet.
    return ["quantize"] if call.destination.granularity == TENSOR else ["quantize", "dequantize"]


def recorder_calls(of: list[Call] | None = None) -> list[dict[str, Any]]:
    return [
        recorder_call(call, operation) for call in of or calls() for operation in operations(call)
    ]
