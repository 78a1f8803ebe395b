"""What masks cost and save: the same attention without a mask, with masks, and on cut keys.

All of them take turns in one run, and each is compared with the time without a mask. A mask that
hides whole blocks of keys should take about the time of the keys that are left; one that hides
next to nothing, about the time without a mask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import umfa

PRESET = "masks"

Call = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention, and how many keys of its block each row is shown."""

    name: str
    heads: int
    kv_heads: int
    rows: int
    keys: int
    columns: int
    shown: int
    training: bool = False

    @property
    def label(self) -> str:
        """Its sizes."""
        return f"H{self.heads}/{self.kv_heads} N{self.rows} Nk{self.keys} D{self.columns}"


SHAPES = (
    Shape("decode", 32, 8, 1, 16384, 128, 256),
    Shape("decode", 8, 8, 1, 32768, 64, 32768),
    Shape("prefill, blocks", 8, 8, 2048, 2048, 64, 256),
    Shape("training, blocks", 4, 4, 1024, 1024, 64, 128, training=True),
)


@dataclass(frozen=True)
class Measured:
    """The times of one way to call."""

    shape: str
    label: str
    way: str
    seconds: float
    """The smallest of all turns."""
    ratio: float
    """To the time without a mask, the median of the turns' ratios."""


def measure_all(
    seconds: float, seed: int, say: Callable[[str], None], shapes: tuple[Shape, ...] = SHAPES
) -> list[Measured]:
    """Every way on every shape, for about `seconds` each."""
    return [one for shape in shapes for one in _measure(shape, seconds, seed, say)]


def _measure(
    shape: Shape, seconds: float, seed: int, say: Callable[[str], None]
) -> Iterator[Measured]:
    ways = dict(_ways(shape, np.random.default_rng(seed)))
    for call in ways.values():
        call()
    say(f"{shape.name} {shape.label}")
    turns: list[list[float]] = []
    end = time.perf_counter() + seconds * len(ways)
    while len(turns) < 5 or (time.perf_counter() < end and len(turns) < 200):
        turns.append([_time(call) for call in ways.values()])
    times = np.array(turns)
    for at, way in enumerate(ways):
        ratio = float(np.median(times[:, at] / times[:, 0]))
        yield Measured(shape.name, shape.label, way, float(times[:, at].min()), ratio)


def _time(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _ways(shape: Shape, rng: np.random.Generator) -> Iterator[tuple[str, Call]]:
    def random(heads: int, rows: int) -> np.ndarray:
        return rng.standard_normal((1, heads, rows, shape.columns), np.float32)

    q, d_out = random(shape.heads, shape.rows), random(shape.heads, shape.rows)
    k, v = random(shape.kv_heads, shape.keys), random(shape.kv_heads, shape.keys)

    def call(mask: Any = None, keys: int = shape.keys) -> Call:
        some_k, some_v = k[:, :, :keys], v[:, :, :keys]

        def forward() -> Any:
            return umfa.attention(q, some_k, some_v, attn_mask=mask)

        if not shape.training:
            return forward
        context = umfa.MFAContext()
        out, logsumexp = umfa.attention(
            q, some_k, some_v, context, attn_mask=mask, return_logsumexp=True
        )

        def backward() -> Any:
            return umfa.flash_attention_backward(
                context, d_out, q, some_k, some_v, out, logsumexp, attn_mask=mask
            )

        return backward

    seen = _blocks(shape)
    yield "no mask", call()
    yield "bool, all true", call(np.ones_like(seen))
    yield "float, all 0", call(np.zeros(seen.shape, np.float32))
    yield f"bool, {shape.shown} keys a row", call(seen)
    hidden = np.where(seen, np.float32(0), np.float32(-np.inf))
    yield f"float, {shape.shown} keys a row", call(hidden)
    yield f"keys cut to {shape.shown}", call(keys=shape.shown)


def _blocks(shape: Shape) -> np.ndarray:
    """Each row sees `shown` keys: those of its own block, or the last ones if there is one row."""
    blocks = shape.keys // shape.shown
    row_block = np.arange(shape.rows) * blocks // shape.rows if shape.rows > 1 else [blocks - 1]
    key_block = np.arange(shape.keys) // shape.shown
    seen: np.ndarray = np.asarray(row_block)[:, None] == key_block
    return seen[None, None]


def to_json(found: list[Measured]) -> list[dict[str, Any]]:
    """As plain values."""
    return [asdict(one) for one in found]
