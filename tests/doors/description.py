"""One attention call, described once: plain data, the same for every door.

Everything random (values, what a mask hides) is made from `seed`, so that a description that was
printed can be pinned as it is with hypothesis' `@example`.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOATS = ("fp32", "fp16", "bf16")
INTEGERS = ("int8", "int4")


@dataclass(frozen=True)
class Stored:
    """How an operand is stored."""

    precision: str = "fp32"
    granularity: str = "tensor"
    """Of integers: tensor, row, block or channel."""
    block_rows: int = 16
    group: int | None = None
    symmetric: bool = True
    smooth: bool = False
    rotate: bool = False
    scale16: bool = False
    memory: str = "packed"
    """packed, bnhd, padded, transposed, or repeated by a stride of 0: over batch, over heads."""

    @property
    def integer(self) -> bool:
        return self.precision in INTEGERS


@dataclass(frozen=True)
class Mask:
    precision: str = "bool"
    dims: str = "bhqk"
    """Each dimension full (its letter), of size 1, or of stride 0."""
    rank: int = 4
    """Leading dimensions are left out; they must be of size 1."""
    hidden: float = 0.3
    """The share of elements that hide their key."""
    lowest: bool = False
    """Of floats: the lowest finite number stands where -infinity would hide."""

    @property
    def learnt(self) -> bool:
        """Whether it has a gradient of its own: floats, none of which is many elements."""
        return self.precision != "bool" and "0" not in self.dims


@dataclass(frozen=True)
class Call:
    seed: int = 0
    batch: tuple[int, ...] = (1,)
    """Two of them: operands of rank 5."""
    heads: int = 2
    kv_heads: int = 2
    rows: int = 3
    keys: int = 4
    d: int = 8
    dv: int = 8
    q: Stored = Stored()
    k: Stored = Stored()
    v: Stored = Stored()
    rank: int = 4
    layout: str = "BHND"
    scale: float | None = None
    softcap: float = 0.0
    causal: bool = False
    window: tuple[int, int] | None = None
    """-1: no limit."""
    alignment: str = "top_left"
    mask: Mask | None = None
    slopes: str | None = None
    """ALiBi: "h" or "bh"."""
    sinks: bool = False
    lengths: tuple[tuple[int, int], ...] | None = None
    """Packed sequences: rows and keys of each."""
    spare: tuple[int, int] = (0, 0)
    """Rows and keys after the last of them."""
    key_lengths: tuple[int, ...] | None = None
    """How many of its keys each sequence has."""
    poison: bool = False
    """Keys and values that no row sees hold NaN, in their data or in their scales."""
    offset: float = 0.0
    """Added to the keys: what smoothing takes away."""
    grad: bool = False

    @property
    def operands(self) -> dict[str, Stored]:
        return {"q": self.q, "k": self.k, "v": self.v}

    @property
    def integer(self) -> bool:
        return any(x.integer for x in self.operands.values())

    @property
    def output(self) -> str:
        """The precision of the result."""
        return "fp32" if self.q.integer else self.q.precision

    @property
    def diagonal(self) -> bool:
        """Whether it matters where the diagonal is."""
        return self.causal or self.window is not None or self.slopes is not None
