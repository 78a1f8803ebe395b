"""One call through every door."""

from __future__ import annotations

import pytest
from c_doors import c_doors
from calls import calls
from check import COUNTS, MANY, WHOLE, check
from description import Call, Mask, Stored
from doors import Door, numpy_doors
from hypothesis import example, given, settings
from torch_doors import Compiled, Eager, torch_doors

PADDED = Mask("fp32", dims="b11k", hidden=1.1, lowest=True)
"""As Transformers pads on the left: the lowest finite number, here everywhere."""
ROWS_8 = Stored("int8", "row")


@pytest.fixture(scope="session")
def every_door() -> list[Door]:
    return [*c_doors(), *numpy_doors(), *torch_doors()]


# Rows of which every key has the lowest finite number are the mean of the values.
@example(call=Call(seed=1, batch=(2,), rows=17, keys=9, mask=PADDED))
@example(call=Call(seed=2, rows=1, keys=40, mask=Mask("bf16", "11qk", 2, 1.1, lowest=True)))
# Beside a sink they are nothing.
@example(call=Call(seed=3, rows=5, keys=7, mask=PADDED, sinks=True))
# Size 0, in rank 4 and 5, with and without the batch.
@example(call=Call(seed=4, batch=(0,), rows=2, keys=3, grad=True))
@example(call=Call(seed=5, batch=(0, 2), rows=2, keys=3, rank=5, grad=True))
@example(call=Call(seed=6, batch=(2, 1), rows=0, keys=3, rank=5, grad=True))
@example(call=Call(seed=7, rows=3, keys=0, sinks=True, grad=True))
# A mask beside lengths of keys is as wide as the keys, not as the longest length.
@example(
    call=Call(
        seed=8, batch=(2,), rows=3, keys=21, mask=Mask("fp16"), key_lengths=(12, 0), grad=True
    )
)
# Rows after the last packed sequence.
@example(
    call=Call(
        seed=9, rows=1, keys=1, lengths=((2, 3), (0, 4)), spare=(3, 2), poison=True, grad=True
    )
)
# A layout with as many rows as heads, and with others.
@example(call=Call(seed=10, heads=4, kv_heads=2, rows=4, keys=4, layout="BNHD", grad=True))
@example(
    call=Call(seed=11, heads=4, kv_heads=2, rows=9, keys=5, layout="BNHD", mask=Mask(), grad=True)
)
@settings(max_examples=MANY)
@given(call=calls(integer=False))
def test_floats(every_door: list[Door], call: Call) -> None:
    check(call, every_door)


# Nothing stored with a hidden key reaches a result: here scales of NaN, for 1 row and for a tile.
@example(call=Call(seed=1, rows=1, keys=6, k=ROWS_8, v=ROWS_8, mask=Mask(dims="111k"), poison=True))
@example(
    call=Call(
        seed=2,
        rows=18,
        keys=33,
        k=Stored("int4", "row"),
        v=Stored("int4", "row", symmetric=False),
        mask=Mask("fp32", "11qk", hidden=0.9),
        poison=True,
        grad=True,
    )
)
@example(
    call=Call(
        seed=3, rows=20, keys=40, v=ROWS_8, window=(2, 0), causal=True, poison=True, grad=True
    )
)
# Scores and an output gradient of which most rows are nothing.
@example(call=Call(seed=4, batch=(2,), rows=17, keys=9, v=Stored("int4", "channel"), mask=PADDED))
@settings(max_examples=MANY)
@given(call=calls(integer=True))
def test_integers(every_door: list[Door], call: Call) -> None:
    check(call, every_door)


@settings(max_examples=max(MANY // 20, 5))
@given(call=calls(integer=False))
def test_compiled(call: Call) -> None:
    check(call, [Compiled()])


def test_mapped_calls_quantize_as_single_ones_do() -> None:
    """Under vmap, a scale for a tensor is one for each sample."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    generator = torch.Generator().manual_seed(3)
    # Samples of different sizes, whose scales cannot be the same.
    q, k, v = (
        torch.randn(3, 2, 5, 8, generator=generator)
        * torch.tensor([1.0, 5.0, 0.2])[:, None, None, None]
        for _ in range(3)
    )

    def attend(q: object, k: object, v: object) -> object:
        return Eager().attend(q, k, v, precision={"k": "int8", "v": "int4"})

    mapped = torch.vmap(attend)(q, k, v)
    torch.testing.assert_close(mapped, torch.stack([attend(*x) for x in zip(q, k, v)]))


@pytest.mark.skipif(not WHOLE, reason="other numbers of descriptions were asked for")
def test_there_were_many_calls() -> None:
    assert sum(count.calls for count in COUNTS.values()) >= 2000
