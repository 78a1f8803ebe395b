"""The cache formats that are compared, and why these.

Chosen by measurement, on four texts (two halves of Alice, As You Like It, the GPL) of 2,048 tokens.
Kullback-Leibler divergence from the FP32 model's predictions, in 1e-4 nats per token:

@TABLE@
"""

from __future__ import annotations

from dataclasses import dataclass

from ._engine import Format


@dataclass(frozen=True)
class Mode:
    """Storage of the three operands of attention; ``None`` is float32."""

    name: str
    title: str
    q: Format | None = None
    k: Format | None = None
    v: Format | None = None


_INT8 = Format("int8", "row", rotate=True)

#: Recent keys of a cache whose blocks are quantized per channel: precise enough that rounding
#: twice (here, then in the finished block) costs nothing.
RECENT = _INT8

_INT4_KEYS = Format("int4", "channel", block_rows=32, symmetric=False, rotate=True)
_INT4_VALUES = Format("int4", "row", group=32, symmetric=False, rotate=True)

MODES = (
    Mode("fp32", "FP32"),
    Mode("int8_kv", "INT8 K/V", k=_INT8, v=_INT8),
    Mode("int4_kv", "INT4 K/V", k=_INT4_KEYS, v=_INT4_VALUES),
    Mode("int8", "INT8 Q/K/V", q=_INT8, k=_INT8, v=_INT8),
)
