"""What one attention call is asked to do, in real numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .precision import FP32

TOP_LEFT, BOTTOM_RIGHT = 0, 1
EXACT, FAST = 0, 1


@dataclass(frozen=True)
class Operand:
    """The real values of a stored tensor [batch, heads, rows, columns], and how it was stored."""

    values: NDArray[np.float64]
    precision: int = FP32
    inside: NDArray[np.bool_] | None = None
    """For the clip option: false where an element is stored at the end of the quantized range."""
    rotated: bool = False
    row_scale: NDArray[np.float64] | None = None
    """[batch, heads, rows, 1], where a row of integers has one scale of its own or its block's."""
    single: NDArray[np.float32] | None = None
    """The real values of an integer tensor as computed in FP32, where that differs."""
    deviation: NDArray[np.float64] | None = None
    """Standard deviation of `single`."""


@dataclass(frozen=True)
class Options:
    """mfa_attention_options, with arrays in place of buffers."""

    scale: float | None = None
    softcap: float = 0.0
    causal: bool = False
    window: tuple[int, int] | None = None
    """(left, right); -1 = no limit on that side."""
    alignment: int = TOP_LEFT
    compute: int = EXACT
    mask: NDArray | None = None
    """bool (true = attend) or float64 (added), each dimension full or 1."""
    alibi_slopes: NDArray[np.float64] | None = None
    """[batch or 1, heads]"""
    sinks: NDArray[np.float64] | None = None
    """[heads]"""
    lengths: list[tuple[int, int]] | None = None
    """Varlen: (query rows, key rows) of each sequence."""


@dataclass(frozen=True)
class Problem:
    query: Operand
    key: Operand
    value: Operand
    options: Options = field(default_factory=Options)
    output_precision: int = FP32

    @property
    def scale(self) -> float:
        if self.options.scale is not None:
            return self.options.scale
        return float(1.0 / np.sqrt(np.float64(self.query.values.shape[3])))

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.query.values.shape[1] // max(self.key.values.shape[1], 1)
