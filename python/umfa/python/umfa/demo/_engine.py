"""What the demo asks of an attention engine, and umfa as one.

The demo's caches speak to this interface only, so that the same model runs on umfa and on the
tests' simulation of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """The arrays of a quantized operand.

    Axis 2 of scales and zero points runs over rows (``granularity="row"``) or blocks of rows
    (``"channel"``).
    """

    data: Array
    scale: Array
    zero_point: Array | None


@dataclass(frozen=True)
class Format:
    """How an operand is quantized: the keywords of :func:`umfa.quantize`."""

    precision: str
    granularity: str = "row"
    block_rows: int = 64
    group: int | None = None
    symmetric: bool = True
    scale_dtype: str = "float16"
    zero_point_dtype: str = "int8"
    rotate: bool = False


@cache
def _keywords(form: Format) -> dict[str, Any]:
    return asdict(form)


class Quantized(Protocol):
    """What the demo uses of :class:`umfa.QuantizedTensor`."""

    @property
    def data(self) -> Array: ...
    @property
    def scale(self) -> Array: ...
    @property
    def zero_point(self) -> Array | None: ...
    def dequantize(self) -> F32: ...


Operand = F32 | Quantized


class Engine(Protocol):
    """Attention and quantization; arrays are ``[batch, heads, rows, head dim]``."""

    def attention(self, q: Operand, k: Operand, v: Operand, *, causal: bool) -> tuple[F32, F32]:
        """Output and logsumexp ``[batch, heads, rows]``; ``causal`` aligns the last rows."""
        ...

    def merge(self, outputs: list[F32], logsumexps: list[F32]) -> F32:
        """The output over all keys, of those over parts of them."""
        ...

    def quantize(self, x: F32, form: Format) -> Quantized: ...

    def assemble(self, form: Format, parts: Parts, head_dim: int) -> Quantized:
        """A quantized operand over existing arrays, which are not copied."""
        ...


class UmfaEngine:
    """:mod:`umfa` on one context."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def attention(self, q: Operand, k: Operand, v: Operand, *, causal: bool) -> tuple[F32, F32]:
        import umfa

        arrays = all(isinstance(t, np.ndarray) for t in (q, k, v))
        call: Any = umfa.attention if arrays else umfa.quantized_attention
        out, logsumexp = call(
            q,
            k,
            v,
            self._context,
            causal=causal,
            alignment="bottom_right",
            return_logsumexp=True,
        )
        return out, logsumexp

    def merge(self, outputs: list[F32], logsumexps: list[F32]) -> F32:
        import umfa

        return umfa.merge(outputs, logsumexps, self._context)[0]

    def quantize(self, x: F32, form: Format) -> Quantized:
        import umfa

        quantized: Quantized = umfa.quantize(x, context=self._context, **_keywords(form))
        return quantized

    def assemble(self, form: Format, parts: Parts, head_dim: int) -> Quantized:
        import umfa

        make: Any = umfa.QuantizedTensor  # its literal types are narrower than Format's
        quantized: Quantized = make(
            parts.data,
            parts.scale,
            parts.zero_point,
            precision=form.precision,
            granularity=form.granularity,
            block_rows=form.block_rows,
            group=form.group,
            rotated=form.rotate,
            shape=(*parts.data.shape[:3], head_dim),
        )
        return quantized
