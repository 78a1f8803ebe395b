"""Tensors of the large calls: how they are stored, their bytes and their real values.

`xp` is CuPy or NumPy. A tensor is contiguous. Real values are float64, as in
tests/conformance/reference/quantize.py:
real = scale * (n - zero_point), then the rotation, then + the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Array = Any
Shape = tuple[int, int, int, int]

FP32, FP16, BF16, INT4, INT8, BOOL = 0, 1, 2, 4, 8, 16
PRECISIONS = {"fp32": FP32, "fp16": FP16, "bf16": BF16, "int4": INT4, "int8": INT8, "bool": BOOL}
BITS = {FP32: 32, FP16: 16, BF16: 16, INT4: 4, INT8: 8, BOOL: 8}
INTEGERS = (INT4, INT8)
TENSOR, ROW, BLOCK, CHANNEL = range(4)
# Half a unit in the last place of a number in [1, 2), and the standard deviation of a rounding in
# that unit: tests/conformance/reference/precision.py.
UNIT = {FP32: 2.0**-24, FP16: 2.0**-11, BF16: 2.0**-9}
DEVIATION = float((8 * math.log(2.0)) ** -0.5)
ROUNDING = DEVIATION * UNIT[FP32]


@dataclass(frozen=True)
class Storage:
    """How an operand is stored."""

    precision: int
    granularity: int = TENSOR
    group: int = 0
    block_rows: int = 0
    half_scales: bool = False
    zero_point_bytes: int = 0
    """1 or 4: the tensor has zero points."""
    mean: bool = False
    rotated: bool = False

    @property
    def name(self) -> str:
        names = {code: name.upper() for name, code in PRECISIONS.items()}
        words = [names[self.precision]]
        if self.precision in INTEGERS:
            words.append(("tensor", "row", "block", "channel")[self.granularity])
            words += [f"groups of {self.group}"] if self.group else []
            words += ["zero points"] if self.zero_point_bytes else []
            words += ["mean"] if self.mean else []
            words += ["rotated"] if self.rotated else []
        return " ".join(words)

    @property
    def top(self) -> int:
        return 7 if self.precision == INT4 else 127

    def scale_shape(self, shape: Shape) -> Shape:
        batch, heads, rows, columns = shape
        if self.granularity == TENSOR:
            return (1, 1, 1, 1)
        if self.granularity == ROW:
            return (batch, heads, rows, -(-columns // (self.group or columns)))
        blocks = -(-rows // self.block_rows)
        return (batch, heads, blocks, 1 if self.granularity == BLOCK else columns)

    def bytes(self, shape: Shape) -> int:
        return count(shape) * BITS[self.precision] // 8

    def parts(self, shape: Shape) -> dict[str, int]:
        """The buffers of a tensor, with their sizes in bytes."""
        sizes = {"data": self.bytes(shape)}
        if self.precision in INTEGERS and self.granularity != TENSOR:
            scales = count(self.scale_shape(shape))
            sizes["scales"] = scales * (2 if self.half_scales else 4)
            if self.zero_point_bytes:
                sizes["zero_points"] = scales * self.zero_point_bytes
        if self.mean:
            sizes["mean"] = 4 * shape[0] * shape[1] * shape[3]
        return sizes


def count(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


# Of a tensor-wise quantization: the host knows it before the device runs, so it is not drawn.
TENSOR_SCALE, TENSOR_ZERO_POINT = 0.0157, 3


def _bf16_bits(xp: Any, x: Array) -> Array:
    word = x.astype(xp.float32).view(xp.uint32)
    even = (word >> xp.uint32(16)) & xp.uint32(1)
    return ((word + even + xp.uint32(0x7FFF)) >> xp.uint32(16)).astype(xp.uint16)


def rounded(xp: Any, x: Array, precision: int) -> Array:
    """`x` after a trip through storage, in its own type."""
    if precision == FP16:
        return x.astype(xp.float16).astype(x.dtype)
    if precision == BF16:
        return (
            (_bf16_bits(xp, x).astype(xp.uint32) << xp.uint32(16)).view(xp.float32).astype(x.dtype)
        )
    return x.astype(xp.float32).astype(x.dtype)


def stored_bytes(xp: Any, x: Array, precision: int) -> Array:
    """Floats, booleans or integers as bytes."""
    if precision == BF16:
        stored = _bf16_bits(xp, x)
    elif precision == INT4:
        nibbles = x.reshape(-1).astype(xp.int8).view(xp.uint8) & xp.uint8(15)
        stored = nibbles[0::2] | (nibbles[1::2] << xp.uint8(4))
    else:
        kinds = {FP32: xp.float32, FP16: xp.float16, INT8: xp.int8, BOOL: xp.uint8}
        stored = x.astype(kinds[precision])
    return xp.ascontiguousarray(stored).reshape(-1).view(xp.uint8)


def read(xp: Any, memory: Array, precision: int, shape: tuple[int, ...]) -> Array:
    """Stored floats as float64."""
    if precision == BF16:
        bits = memory.view(xp.uint16).astype(xp.uint32) << xp.uint32(16)
        return bits.view(xp.float32).astype(xp.float64).reshape(shape)
    return (
        memory.view({FP32: xp.float32, FP16: xp.float16}[precision])
        .astype(xp.float64)
        .reshape(shape)
    )


def hadamard(xp: Any, x: Array) -> Array:
    """Each row times the block-diagonal Sylvester matrix; its own inverse."""
    columns = x.shape[-1]
    size = columns & -columns
    blocks = x.reshape(*x.shape[:-1], columns // size, size)
    half = 1
    while half < size:
        pairs = blocks.reshape(*blocks.shape[:-1], size // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        blocks = xp.stack([first + second, first - second], axis=-2).reshape(blocks.shape)
        half *= 2
    return (blocks / x.dtype.type(size**0.5)).reshape(x.shape)


def expand(xp: Any, per_group: Array, storage: Storage, shape: Shape) -> Array:
    """One value a group to one value an element."""
    if storage.granularity == TENSOR:
        return xp.broadcast_to(per_group, shape)
    if storage.granularity == ROW:
        repeated = xp.repeat(per_group, storage.group or shape[3], axis=3)
    else:
        repeated = xp.repeat(per_group, storage.block_rows, axis=2)
    return xp.broadcast_to(repeated[:, :, : shape[2], : shape[3]], shape)


@dataclass
class Made:
    """A tensor's buffers by part, and its real values."""

    parts: dict[str, Array]
    real: Array
    inside: Array | None = None
    """Where the clip option lets gradients through."""
    single: Array | None = None
    """The real values of integers as computed in FP32."""
    deviation: Array | None = None
    """Standard deviation of `single`."""
    row_scale: Array | None = None
    """[batch, heads, rows], where a row of integers has one scale of its own or its block's."""


def make(xp: Any, storage: Storage, shape: Shape, rng: Any) -> Made:
    """Normal numbers, or random integers with random scales: of the order of 1."""
    if storage.precision not in INTEGERS:
        x = rng.standard_normal(shape, dtype=xp.float32).astype(xp.float64)
        return Made(
            {"data": stored_bytes(xp, x, storage.precision)}, rounded(xp, x, storage.precision)
        )
    top, sizes = storage.top, storage.scale_shape(shape)
    tensor_wise = storage.granularity == TENSOR
    shifted = tensor_wise or storage.zero_point_bytes > 0
    codes = rng.integers(-top - 1 if shifted else -top, top + 1, shape, dtype=xp.int64).astype(
        xp.int8
    )
    parts = {"data": stored_bytes(xp, codes, storage.precision)}
    if tensor_wise:
        scales = xp.full(sizes, xp.float32(TENSOR_SCALE * 127 / top))
        zeros = xp.full(sizes, TENSOR_ZERO_POINT, dtype=xp.int32)
    else:
        drawn = (rng.random(sizes, dtype=xp.float32) + 0.5) * (2.0 / top)
        scales = drawn.astype(xp.float16 if storage.half_scales else xp.float32).astype(xp.float32)
        parts["scales"] = stored_bytes(xp, scales, FP16 if storage.half_scales else FP32)
        zeros = xp.zeros(sizes, dtype=xp.int32)
        if storage.zero_point_bytes:
            zeros = rng.integers(-(top // 3), top // 3 + 1, sizes, dtype=xp.int64).astype(xp.int32)
            kind = xp.int8 if storage.zero_point_bytes == 1 else xp.int32
            parts["zero_points"] = (
                xp.ascontiguousarray(zeros.astype(kind)).reshape(-1).view(xp.uint8)
            )
    whole = expand(xp, scales, storage, shape)
    steps = codes.astype(xp.float64) - expand(xp, zeros, storage, shape)
    mean = None
    if storage.mean:
        mean = rng.standard_normal((shape[0], shape[1], shape[3]), dtype=xp.float32)
        mean = mean * xp.float32(0.3)
        parts["mean"] = stored_bytes(xp, mean, FP32)

    def computed(kind: Any) -> tuple[Array, Array]:
        """Real values, computed in a type; and what the mean is added to."""
        real = whole.astype(kind) * steps.astype(kind)
        bare = hadamard(xp, real) if storage.rotated else real
        return bare if mean is None else bare + mean.astype(kind)[:, :, None, :], bare

    real, bare = computed(xp.float64)
    lowest = -top - 1 if shifted else -top
    made = Made(parts, real, (codes > lowest) & (codes < top), computed(xp.float32)[0])
    made.deviation = _deviation(xp, storage, real, bare)
    if storage.granularity in (ROW, BLOCK) and scales.shape[3] == 1:
        made.row_scale = whole[..., 0].astype(xp.float64)
    return made


def _deviation(xp: Any, storage: Storage, real: Array, bare: Array) -> Array:
    """Standard deviation of real values computed in FP32; `bare` without the mean.

    As dequantize_deviation() of tests/conformance/reference/quantize.py: the product, each stage of
    the rotation and the sum with the mean are rounded.
    """
    variance = bare**2
    if storage.mean:
        variance = variance + real**2
    if storage.rotated:
        columns = real.shape[-1]
        size = columns & -columns
        blocks = (real**2).reshape(*real.shape[:-1], columns // size, size)
        typical = xp.broadcast_to(blocks.mean(axis=-1, keepdims=True), blocks.shape)
        variance = variance + typical.reshape(real.shape) * size.bit_length()
    return ROUNDING * xp.sqrt(variance)


def quantization(storage: Storage, numbers: dict[str, int]) -> dict[str, Any] | None:
    """The recorder's form; `numbers` are those of the buffers of the parts."""
    if storage.precision not in INTEGERS:
        return None
    tensor_wise = storage.granularity == TENSOR
    return {
        "granularity": storage.granularity,
        "blockRows": storage.block_rows,
        "groupSize": storage.group,
        "scale": TENSOR_SCALE * 127 / storage.top if tensor_wise and "scales" not in numbers else 0,
        "zeroPoint": TENSOR_ZERO_POINT if tensor_wise and "scales" not in numbers else 0,
        "scaleBuffer": numbers.get("scales"),
        "scaleOffset": 0,
        "scaleStrides": [0, 0, 0, 0],
        "scalePrecision": FP16 if storage.half_scales else FP32,
        "rotated": int(storage.rotated),
        "zeroPointBuffer": numbers.get("zero_points"),
        "zeroPointOffset": 0,
        "zeroPointBytes": storage.zero_point_bytes,
        "meanBuffer": numbers.get("mean"),
        "meanOffset": 0,
    }
