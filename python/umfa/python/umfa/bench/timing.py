"""How long attention takes in each precision."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

import umfa

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Mode:
    """A storage of the operands: a dtype for floats, and a precision for those quantized."""

    name: str
    dtype: str = "float32"
    precision: str | None = None
    quantized: str = ""


MODES = (
    Mode("FP32"),
    Mode("FP16", "float16"),
    Mode("INT8 K/V", precision="int8", quantized="kv"),
    Mode("INT4 K/V", precision="int4", quantized="kv"),
    Mode("INT8 Q/K/V", precision="int8", quantized="qkv"),
)


@dataclass(frozen=True)
class Timing:
    """The median of several calls."""

    mode: str
    seconds: float
    calls: int


def prepare(
    mode: Mode, q: Array, k: Array, v: Array, granularity: str, **options: Any
) -> Callable[[], Array]:
    """A call on operands that are quantized beforehand, writing to the same output each time."""
    given: list[Any] = []
    for name, array in zip("qkv", (q, k, v)):
        if name in mode.quantized:
            precision: Any = mode.precision
            grain: Any = granularity
            given.append(umfa.quantize(array, precision, grain))
        else:
            given.append(array.astype(mode.dtype))
    shape = (*q.shape[:-1], v.shape[-1])
    out = np.empty(shape, mode.dtype)
    return lambda: umfa.attention(*given, out=out, **options)


def timings(
    calls: dict[str, Callable[[], Array]], seconds: float, least: int = 5
) -> Iterator[Timing]:
    """Times each call for about `seconds`, after a first one that is not counted."""
    for name, call in calls.items():
        call()
        took: list[float] = []
        end = time.perf_counter() + seconds
        while len(took) < least or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            took.append(time.perf_counter() - start)
        yield Timing(name, statistics.median(took), len(took))
