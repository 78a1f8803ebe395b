"""Random descriptions (hypothesis)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from description import FLOATS, INTEGERS, Call, Mask, Stored
from hypothesis import strategies as st

MEMORY = ("packed", "packed", "bnhd", "padded", "transposed", "over batch", "over heads")


@st.composite
def floats(draw: Any, precision: str) -> Stored:
    return Stored(precision, memory=draw(st.sampled_from(MEMORY)))


@st.composite
def integers(draw: Any, role: str) -> Stored:
    granularity = draw(st.sampled_from(["tensor", "row", "block", "channel"]))
    return Stored(
        precision=draw(st.sampled_from(INTEGERS)),
        granularity=granularity,
        block_rows=draw(st.sampled_from([1, 3, 16, 64])),
        group=draw(st.sampled_from([None, None, 32, 64])) if granularity == "row" else None,
        symmetric=draw(st.booleans()),
        smooth=role == "k" and draw(st.integers(0, 3)) == 0,
        rotate=draw(st.integers(0, 3)) == 0,
        scale16=draw(st.integers(0, 3)) == 0,
    )


@st.composite
def masks(draw: Any) -> Mask:
    dims = "".join(draw(st.sampled_from([axis, axis, "1", "0"])) for axis in "bhqk")
    first = next((i for i, d in enumerate(dims) if d != "1"), 3)
    precision = draw(st.sampled_from(["bool", *FLOATS]))
    return Mask(
        precision=precision,
        dims=dims,
        rank=draw(st.integers(4 - first, 4)) if first else 4,
        hidden=draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.1])),
        lowest=precision != "bool" and draw(st.integers(0, 2)) == 0,
    )


def sizes(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from([0, 1, 1, 2, 15, 16, 17]), st.integers(1, most))


@st.composite
def calls(draw: Any, integer: bool) -> Call:
    """A legal call; `integer`: some operand is stored in integers."""
    common = draw(st.sampled_from([*FLOATS, "fp32"]))
    # Doors with PyTorch's signature take one dtype for all three.
    mixed = draw(st.integers(0, 3)) == 0
    stored = {}
    for role in "qkv":
        if integer and draw(st.integers(0, 3)) > 0:
            stored[role] = draw(integers(role))
        else:
            float_one = draw(st.sampled_from(FLOATS)) if mixed else ("fp32" if integer else common)
            stored[role] = draw(floats(float_one))
    kv_heads = draw(st.sampled_from([1, 1, 2, 3, 2, 3, 1, 0]))
    heads = kv_heads * draw(st.sampled_from([1, 1, 2, 3]))
    batch = (draw(st.sampled_from([1, 1, 2, 3])),)
    rank = draw(st.sampled_from([4, 4, 4, 4, 2, 3, 5]))
    lengths = None
    if draw(st.integers(0, 5)) == 0:
        pair = st.tuples(st.integers(0, 9), st.integers(0, 12))
        lengths = tuple(draw(st.lists(pair, min_size=1, max_size=4)))
        batch, rank = (1,), draw(st.sampled_from([3, 4]))
    elif rank == 5:
        batch = (draw(st.sampled_from([1, 2, 0])), draw(st.sampled_from([1, 2])))
    elif rank == 4 and draw(st.integers(0, 19)) == 0:
        batch = (0,)
    if kv_heads == 0 and rank != 4:
        kv_heads = heads = 1
    if rank == 2 or (rank == 3 and lengths is None and draw(st.booleans())):
        heads = kv_heads = 1
    elif rank == 3:
        batch = (1,)
    if rank == 2:
        batch = (1,)
    keys = draw(sizes(40))
    spare, key_lengths = (0, 0), None
    if lengths is not None and draw(st.integers(0, 2)) == 0:
        spare = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    if rank in (3, 4) and draw(st.integers(0, 3)) == 0:
        most = [keys] * batch[0] if lengths is None else [n for _, n in lengths]
        key_lengths = tuple(draw(st.integers(0, n)) for n in most)
    columns = st.one_of(st.integers(1, 40), st.sampled_from([64, 80]))
    d, dv = draw(columns), draw(columns)
    scale = draw(st.sampled_from([None, None, 0.25, -0.125, 1.0]))
    if not integer and draw(st.integers(0, 29)) == 0:
        # Products without terms are 0, times any scale.
        d, scale = 0, 0.25
    if "int4" in (stored["q"].precision, stored["k"].precision):
        d += d % 2
    if stored["v"].precision == "int4":
        dv += dv % 2
    mask = draw(st.sampled_from([None, None, draw(masks())]))
    # Beside -1e38, a logsumexp has no room for the logarithm of a sum, of which gradients are made.
    coarse = mask is not None and mask.lowest and mask.precision != "fp16"
    window = st.tuples(st.integers(-1, 20), st.integers(-1, 20))
    call = Call(
        seed=draw(st.integers(0, 2**20)),
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        rows=draw(sizes(20)),
        keys=keys,
        d=d,
        dv=dv,
        q=stored["q"],
        k=stored["k"],
        v=stored["v"],
        rank=rank,
        layout=draw(st.sampled_from(["BHND", "BHND", "BNHD"])) if rank in (3, 4) else "BHND",
        scale=scale,
        softcap=draw(st.sampled_from([0.0, 0.0, 0.0, 1.5, 30.0])),
        causal=draw(st.integers(0, 2)) == 0,
        window=draw(st.sampled_from([None, None, None, draw(window)])),
        alignment=draw(st.sampled_from(["top_left", "top_left", "bottom_right"])),
        mask=mask,
        slopes=draw(
            st.sampled_from([None, None, None, "h", "h" if lengths or key_lengths else "bh"])
        ),
        sinks=draw(st.integers(0, 4)) == 0,
        lengths=lengths,
        spare=spare,
        key_lengths=key_lengths,
        poison=draw(st.integers(0, 2)) == 0,
        offset=draw(st.sampled_from([0.0, 2.0])) if stored["k"].smooth else 0.0,
        grad=draw(st.booleans()) and not coarse,
    )
    return bare(call) if draw(st.integers(0, 2)) == 0 else call


def bare(call: Call) -> Call:
    """What the fixed signatures and PyTorch's can say: few options, one number of heads."""
    pairs = "int4" in {stored.precision for stored in call.operands.values()}
    d = max(call.d + call.d % 2 if pairs else call.d, 1)
    stored = {
        role: Stored(x.precision, symmetric=x.symmetric)
        if x.integer
        else replace(x, memory=x.memory if x.memory in ("packed", "transposed") else "packed")
        for role, x in call.operands.items()
    }
    return replace(
        call,
        heads=call.kv_heads,
        d=d,
        dv=d,
        rank=4 if call.rank == 5 else call.rank,
        batch=call.batch[:1],
        layout="BHND",
        softcap=0.0,
        window=None,
        alignment="top_left",
        mask=None,
        slopes=None,
        sinks=False,
        lengths=None,
        spare=(0, 0),
        key_lengths=None,
        poison=False,
        **stored,
    )
