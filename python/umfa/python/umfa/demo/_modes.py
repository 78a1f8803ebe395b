"""The cache formats that are compared, and why these.

Chosen by measurement; ``python -m umfa.demo.study`` prints what each choice costs and loses.

- A few channels of the keys are large. Rotation spreads them over all channels, so that one scale
  for a row loses little: INT8 then needs no groups.
- At 4 bits keys lose most where a scale covers channels of different size. A scale per channel has
  to be shared by rows instead; 32 rows make it 4.75 bits per element. Rotation helps here too.
- Values have no such channels, and row by row they lose less than the keys do: rotated groups of
  32 columns, also 4.75 bits.
- Keys per channel need a whole block of rows before they can be quantized. Decoding has one row at
  a time: recent keys stay in INT8 until their block is full, and no block is ever made twice.
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
