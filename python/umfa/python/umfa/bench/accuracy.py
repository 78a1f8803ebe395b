"""How far attention on quantized operands is from FP32 attention.

Two figures are reported for each way to quantize, with O the quantized result and F that of FP32:

- RMSE / RMS(F) = sqrt(mean((O - F)^2)) / sqrt(mean(F^2))
- RMSE / RMS(V) = sqrt(mean((O - F)^2)) / sqrt(mean(V^2)), which on N(0, 1) values is the absolute
  RMSE. It is smaller, because averaging over keys makes F smaller than V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import umfa
from umfa.bench.cases import Case

DEFINITION = (
    "RMSE = sqrt(mean((quantized - FP32)^2)) of the output; % O = RMSE / RMS of the FP32 output, "
    "% V = RMSE / RMS of the values."
)

Array = npt.NDArray[np.float32]
Precision = Literal["int8", "int4"]


@dataclass(frozen=True)
class Way:
    """A way to quantize q, k and v; `smooth` is for k alone."""

    name: str
    precision: Precision
    options: dict[str, Any] = field(default_factory=dict)


def _ways(precision: Precision) -> Iterator[Way]:
    label = precision.upper()
    yield Way(f"{label} tensor", precision)
    for granularity in ("row", "block", "channel"):
        yield Way(f"{label} {granularity}", precision, {"granularity": granularity})
    row = {"granularity": "row"}
    yield Way(f"{label} row, K smoothed", precision, {**row, "smooth": True})
    yield Way(f"{label} row, rotated", precision, {**row, "rotate": True})
    yield Way(
        f"{label} row, K smoothed, rotated", precision, {**row, "smooth": True, "rotate": True}
    )
    groups = {**row, "group": 32, "symmetric": False, "smooth": True, "rotate": True}
    yield Way(f"{label} groups of 32, asymmetric, K smoothed, rotated", precision, groups)


WAYS = (*_ways("int8"), *_ways("int4"))


@dataclass(frozen=True)
class Keys:
    """A distribution of keys; queries and values are N(0, 1)."""

    name: str
    description: str
    offset: float = 0.0
    outlier_channels: int = 0
    outlier_factor: float = 1.0


KEYS = (
    Keys("N(0, 1)", "keys of N(0, 1)"),
    Keys("offset", "keys of N(0, 1) plus 5 in every channel", offset=5.0),
    Keys(
        "outliers",
        "keys of N(0, 1), of which 4 channels are multiplied by 10",
        outlier_channels=4,
        outlier_factor=10.0,
    ),
)


@dataclass(frozen=True)
class Measured:
    """The errors of one way on one kind of keys."""

    shape: str
    quantized: str
    way: str
    keys: str
    rmse: float
    relative_to_output: float
    relative_to_values: float


def operands(
    keys: Keys, shapes: Sequence[tuple[int, ...]], seed: int
) -> tuple[Array, Array, Array]:
    """Draws q, k and v of the three shapes."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape, np.float32) for shape in shapes)
    k += np.float32(keys.offset)
    spread = np.linspace(0, k.shape[-1], keys.outlier_channels, endpoint=False, dtype=int)
    k[..., spread] *= np.float32(keys.outlier_factor)
    return q, k, v


def measure(
    way: Way, keys: Keys, q: Array, k: Array, v: Array, reference: Array, quantized: str = "qkv"
) -> Measured:
    """Compares attention with `quantized` operands (letters of q, k and v) with the reference."""
    precision = dict.fromkeys(quantized, way.precision)
    out = umfa.attention(q, k, v, precision=precision, **way.options)
    rmse = _rms(out - reference)
    relative = rmse / _rms(reference), rmse / _rms(v)
    return Measured(label(q, k, v), quantized, way.name, keys.name, rmse, *relative)


def measure_all(
    shapes: Sequence[tuple[int, ...]], quantized: str, seed: int, say: Callable[[str], None]
) -> list[Measured]:
    """Every way on every kind of keys, for q, k and v of these shapes."""
    found = []
    for keys in KEYS:
        q, k, v = operands(keys, shapes, seed)
        reference = umfa.attention(q, k, v)
        for way in WAYS:
            say(f"keys {keys.name}, {way.name}")
            found.append(measure(way, keys, q, k, v, reference, quantized))
    return found


def label(q: Array, k: Array, v: Array) -> str:
    """The sizes, those that differ between operands named."""
    (batch, heads, rows, columns), (kv_heads, keys) = q.shape, k.shape[1:3]
    rest = (columns, kv_heads, keys, v.shape[-1])
    return Case("accuracy", batch, heads, rows, *rest).label


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
