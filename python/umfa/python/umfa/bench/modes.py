"""The ways in which umfa is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mode:
    """A dtype for operands that stay floats, and a precision for those (of q, k, v) that don't."""

    title: str
    dtype: str = "float32"
    precision: str | None = None
    quantized: str = ""
    compute: str = "exact"
    trains: bool = True
    quantizer: dict[str, Any] = field(default_factory=lambda: {"granularity": "row"})

    @property
    def int4(self) -> bool:
        """Two elements to a byte: the number of columns must be even."""
        return self.precision == "int4"


MODES = {
    "fp32": Mode("FP32"),
    "fp16": Mode("FP16", "float16"),
    "bf16": Mode("BF16", "bfloat16"),
    "int8": Mode("INT8 Q/K/V", precision="int8", quantized="qkv"),
    "int8_fast": Mode(
        "INT8 Q/K/V, fast", precision="int8", quantized="qkv", compute="fast", trains=False
    ),
    "int8_kv": Mode("INT8 K/V", precision="int8", quantized="kv"),
    "int4_kv": Mode("INT4 K/V", precision="int4", quantized="kv"),
}
