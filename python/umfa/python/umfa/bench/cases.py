"""What is measured: shapes, with the names that presets give them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

FORWARD, TRAINING = "forward", "training"
# Not attention: K is quantized, dequantized, or rows are appended to a cache of its shape.
QUANTIZE, DEQUANTIZE, APPEND = "quantize", "dequantize", "append"
STORING = (QUANTIZE, DEQUANTIZE, APPEND)
# Presets that are treated in their own way; "shape" is the command line's own case.
FORMATS_PRESET, DEMO_PRESET, SHAPE_PRESET = "formats", "demo", "shape"


@dataclass(frozen=True)
class Case:
    """One attention: its preset, its sizes, and whether the gradients are computed as well.

    Or what is done to its keys alone, where the kind is one of `STORING`.
    """

    preset: str
    batch: int
    heads: int
    rows: int
    columns: int
    kv_heads: int
    keys: int
    value_columns: int
    causal: bool = False
    kind: str = FORWARD

    @property
    def q_shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, rows, columns."""
        return (self.batch, self.heads, self.rows, self.columns)

    @property
    def k_shape(self) -> tuple[int, int, int, int]:
        """Batch, heads of keys and values, keys, columns."""
        return (self.batch, self.kv_heads, self.keys, self.columns)

    @property
    def v_shape(self) -> tuple[int, int, int, int]:
        """As `k_shape`, with the columns of values."""
        return (self.batch, self.kv_heads, self.keys, self.value_columns)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, rows, columns of values."""
        return (self.batch, self.heads, self.rows, self.value_columns)

    @property
    def group(self) -> int:
        """Query heads for each head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def decode(self) -> bool:
        """Few rows against many keys: bound by reading K and V."""
        return not self.stores and self.rows < 8 <= self.keys

    @property
    def stores(self) -> bool:
        """No attention: K is quantized, dequantized or appended to."""
        return self.kind in STORING

    @property
    def scores(self) -> float:
        """Elements of the score matrices; half of them under a causal mask."""
        return self.batch * self.heads * self.rows * self.keys * (0.5 if self.causal else 1.0)

    @property
    def flops(self) -> float:
        """Multiplications and additions: forward has 2 matrix products, forward and backward 7."""
        forward = 2 * self.scores * (self.columns + self.value_columns)
        return forward * (3.5 if self.kind == TRAINING else 1.0)

    @property
    def kv_elements(self) -> int:
        """Elements of K and V together."""
        return self.batch * self.kv_heads * self.keys * (self.columns + self.value_columns)

    @property
    def label(self) -> str:
        """Its sizes, those that differ from the usual ones named."""
        text = f"B{self.batch} H{self.heads}"
        if self.kv_heads != self.heads:
            text += f" Hkv{self.kv_heads}"
        text += f" N{self.rows}"
        if self.keys != self.rows:
            text += f" Nk{self.keys}"
        text += f" D{self.columns}"
        if self.value_columns != self.columns:
            text += f" Dv{self.value_columns}"
        return text + (" causal" if self.causal else "")

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return asdict(self)


def case(
    preset: str,
    batch: int,
    heads: int,
    rows: int,
    columns: int,
    *,
    kv_heads: int | None = None,
    keys: int | None = None,
    causal: bool = False,
    kind: str = FORWARD,
) -> Case:
    """A case whose keys and values are shaped like the queries, unless said otherwise."""
    return Case(
        preset,
        batch,
        heads,
        rows,
        columns,
        heads if kv_heads is None else kv_heads,
        rows if keys is None else keys,
        columns,
        causal,
        kind,
    )


PRESETS: dict[str, tuple[Case, ...]] = {
    "seeds": (
        case("seeds", 1, 1, 512, 64),
        case("seeds", 1, 1, 1024, 64),
        case("seeds", 1, 8, 1024, 64),
        case("seeds", 1, 8, 2048, 128),
    ),
    "llm": (case("llm", 1, 32, 2048, 128, kv_heads=8, causal=True),),
    "diffusion": (case("diffusion", 1, 24, 4096, 64), case("diffusion", 1, 24, 4096, 128)),
    "encoder": (case("encoder", 8, 12, 512, 64),),
    "long": (case("long", 1, 4, 16384, 64),),
    "decode": (
        case("decode", 1, 32, 1, 128, kv_heads=8, keys=4096),
        case("decode", 1, 32, 1, 128, kv_heads=8, keys=32768),
    ),
    "scaling": tuple(case("scaling", 1, 8, 1 << n, 64) for n in range(8, 15)),
    "training": tuple(case("training", 1, 8, n, 64, kind=TRAINING) for n in (1024, 2048, 4096)),
    FORMATS_PRESET: (
        case(FORMATS_PRESET, 1, 32, 1, 128, kv_heads=8, keys=4096),
        case(FORMATS_PRESET, 1, 32, 1, 128, kv_heads=8, keys=32768),
        case(FORMATS_PRESET, 1, 8, 1024, 64),
        case(FORMATS_PRESET, 1, 32, 2048, 128, kv_heads=8, causal=True),
        case(FORMATS_PRESET, 1, 8, 4096, 128, kind=QUANTIZE),
        case(FORMATS_PRESET, 1, 8, 4096, 128, kind=DEQUANTIZE),
        case(FORMATS_PRESET, 1, 8, 1, 128, keys=4096, kind=APPEND),
    ),
    "overhead": (
        case("overhead", 1, 1, 16, 16),
        case("overhead", 1, 32, 1, 128, kv_heads=8, keys=8),
    ),
    "neighbour": (case("neighbour", 1, 1, 512, 64),),
    "memory": (case("memory", 1, 4, 16384, 64),),
    "accuracy": (case("accuracy", 1, 8, 512, 64), case("accuracy", 1, 8, 2048, 128)),
    # The model of `umfa demo`, and the tokens that it reads.
    DEMO_PRESET: (case(DEMO_PRESET, 1, 9, 2048, 64, kv_heads=3, causal=True),),
}
# All presets, in this order: what is short and what is most asked for comes first.
ALL = "all"


def preset_cases(names: list[str]) -> Iterator[Case]:
    """The cases of these presets, or of all; an unknown name is a ValueError."""
    for name in PRESETS if ALL in names else names:
        if name not in PRESETS:
            raise ValueError(f'no preset "{name}"; there are {", ".join(PRESETS)} and {ALL}')
        yield from PRESETS[name]
