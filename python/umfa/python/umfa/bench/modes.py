"""The ways in which umfa is measured: modes of all presets, and the formats of the guide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Ends the name of a mode whose operands are floats that the call itself quantizes.
FROM_FLOATS = " from floats"
# Contestants that are no attention: they say how fast this machine reads and copies.
READ, COPY = "read", "copy"
RULERS = (READ, COPY)


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
    # Keywords that a single operand has besides, by its letter.
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Whether the guide says to use it for a cache.
    recommended: bool = False

    @property
    def int4(self) -> bool:
        """Two elements to a byte: the number of columns must be even."""
        return self.precision == "int4"

    def keywords(self, operand: str) -> dict[str, Any]:
        """The keywords of `umfa.quantize` for an operand, apart from the precision."""
        return {**self.quantizer, **self.own.get(operand, {})}

    def in_call(self) -> dict[str, dict[str, Any]]:
        """The keywords of `umfa.attention` that quantize the same operands within the call."""
        by_operand = {
            operand: {"precision": self.precision, **self.keywords(operand)}
            for operand in self.quantized
        }
        names = {name: None for keywords in by_operand.values() for name in keywords}
        return {
            name: {operand: given[name] for operand, given in by_operand.items() if name in given}
            for name in names
        }


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

_ROW: dict[str, Any] = {"granularity": "row"}
_ASYMMETRIC: dict[str, Any] = {"symmetric": False}
_HALF_SCALES: dict[str, Any] = {"scale_dtype": "float16"}
_ROTATE: dict[str, Any] = {"rotate": True}
# As `umfa.attention(precision=…, smooth=True)` does: keys alone.
_SMOOTH_K: dict[str, dict[str, Any]] = {"k": {"smooth": True}}

# Of K and V alike: what is quantized alike, and what K has besides.
_GRANULARITIES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "tensor": ({"granularity": "tensor"}, {}),
    "row": (_ROW, {}),
    "row_group64": ({**_ROW, "group": 64}, {}),
    "row_group32": ({**_ROW, "group": 32}, {}),
    "block": ({"granularity": "block"}, {}),
    "channel": ({"granularity": "channel"}, {}),
    "row_asymmetric": ({**_ROW, **_ASYMMETRIC}, {}),
    "row_fp16_scales": ({**_ROW, **_HALF_SCALES}, {}),
    "row_smooth": (_ROW, _SMOOTH_K),
    "row_rotate": ({**_ROW, **_ROTATE}, {}),
    "row_smooth_rotate": ({**_ROW, **_ROTATE}, _SMOOTH_K),
    "row_group32_all": ({**_ROW, "group": 32, **_ASYMMETRIC, **_ROTATE}, _SMOOTH_K),
}


def _format(
    name: str,
    quantizer: dict[str, Any],
    own: dict[str, dict[str, Any]] | None = None,
    quantized: str = "kv",
    recommended: bool = False,
) -> tuple[str, Mode]:
    """A format and its name, which begins with the precision."""
    precision = name.partition("_")[0]
    mode = Mode(
        name,
        precision=precision,
        quantized=quantized,
        quantizer=quantizer,
        own=own or {},
        recommended=recommended,
    )
    return name, mode


def _formats() -> Iterator[tuple[str, Mode]]:
    for name in ("fp32", "fp16", "bf16"):
        yield name, MODES[name]
    for precision in ("int8", "int4"):
        for name, (quantizer, own) in _GRANULARITIES.items():
            best = (precision, name) == ("int8", "row_rotate")
            yield _format(f"{precision}_{name}", quantizer, own, recommended=best)
    keys, values = {"granularity": "channel", "block_rows": 32}, {**_ROW, "group": 32}
    both = {**_ASYMMETRIC, **_HALF_SCALES, **_ROTATE}
    yield _format("int4_recommended", both, {"k": keys, "v": values}, recommended=True)
    yield _format("int8_qkv_row", _ROW, quantized="qkv")
    yield _format("int8_qkv_row_rotate", {**_ROW, **_ROTATE}, quantized="qkv")


# Every format that the guide (docs/quantization.md) names, in its order.
CACHE_FORMATS = dict(_formats())
# By name, all ways of which `--modes` may choose.
NAMED = {**MODES, **CACHE_FORMATS}


def base(name: str) -> str:
    """The name without `FROM_FLOATS`."""
    return name.removesuffix(FROM_FLOATS)


@dataclass(frozen=True)
class Stored:
    """How one tensor is stored: the operand of a mode that it would be."""

    mode: Mode
    operand: str = "k"

    @property
    def keywords(self) -> dict[str, Any]:
        """Those of `umfa.quantize`, the precision included; none for floats."""
        if self.mode.precision is None:
            return {}
        return {"precision": self.mode.precision, **self.mode.keywords(self.operand)}

    @property
    def rows_at_once(self) -> int:
        """Rows that can only be appended together, because they share scales."""
        shared = self.keywords.get("granularity") in ("block", "channel")
        return int(self.keywords.get("block_rows", 64)) if shared else 1

    def bytes_an_element(self, columns: int) -> float:
        """Of rows with so many columns: the element, and its part of scales and zero points.

        A mean, and the scale of a whole tensor, are shared by too many elements to be counted.
        """
        keywords = self.keywords
        if not keywords:
            return 2.0 if self.mode.dtype in ("float16", "bfloat16") else 4.0
        element = 0.5 if self.mode.int4 else 1.0
        shared = {
            "row": keywords.get("group") or columns,
            "block": columns * self.rows_at_once,
            "channel": self.rows_at_once,
        }.get(keywords["granularity"])
        if shared is None:
            return element
        beside = 2 if keywords.get("scale_dtype") == "float16" else 4
        return element + (beside + (not keywords.get("symmetric", True))) / shared


def _tensors() -> Iterator[tuple[str, Stored]]:
    for name, mode in CACHE_FORMATS.items():
        if mode.dtype == "bfloat16" or "q" in mode.quantized:
            continue
        if set(mode.own) <= {"k"}:
            yield name, Stored(mode)
        else:
            for operand in mode.own:
                yield f"{name}_{operand}", Stored(mode, operand)


# The formats of single tensors. BF16 is NumPy's only through a package, at another speed.
TENSORS = dict(_tensors())
