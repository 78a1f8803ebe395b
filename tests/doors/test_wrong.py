"""What one door refuses, every door refuses: with an error of the library, or a TypeError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from c_doors import General
from case import Case
from check import refused
from contract import Memory, Refused
from description import Call
from doors import Attention, Door, Explain, FlashAttention, Python, QuantizedAttention, Sdpa
from torch_doors import Eager, tensor
from wrong import WRONG

import umfa

LEGAL = Call(seed=1, batch=(2,), heads=4, kv_heads=2, rows=5, keys=6)


@pytest.fixture(scope="module")
def legal() -> Case:
    return Case(LEGAL)


@pytest.fixture(scope="module")
def every_door() -> list[Door]:
    return [
        General(),
        Attention(),
        QuantizedAttention(),
        FlashAttention(),
        Explain(),
        Sdpa(),
        Eager(),
    ]


def spoiled(door: Python, legal: Case, name: str) -> Callable[[], Any] | None:
    """The call at a door of Python, or None where it cannot be said."""
    wrong = WRONG[name]
    if wrong.python is None or (wrong.numpy_only and isinstance(door, Eager)):
        return None
    values = wrong.python(Attention().arguments(legal))
    if isinstance(door, QuantizedAttention) and "precision" not in values:
        # Elsewhere it takes what umfa.attention takes.
        values["precision"] = "int8" if "without precision" not in name else None
    if isinstance(door, Sdpa):
        values["enable_gqa"] = True
    if isinstance(door, Eager):
        values = {n: tensor(x) if isinstance(x, np.ndarray) else x for n, x in values.items()}
    return lambda: door.call(values)


def spoiled_in_c(door: General, legal: Case, name: str) -> Callable[[], Any] | None:
    wrong = WRONG[name]
    if wrong.c is None:
        return None
    change = wrong.c

    def call() -> None:
        assert door.library is not None
        out, logsumexp = door._results(legal, "fp32")
        out[...] = 7.0
        with Memory(door.library) as memory:
            desc = door.descriptor(memory, legal, out, logsumexp)
            change(desc, desc.options.contents)
            try:
                door.run(desc)
            except Refused:
                assert (out == 7.0).all(), "a refused call has written"
                assert not logsumexp.any(), "a refused call has written"
                raise

    return call


@pytest.mark.parametrize("name", WRONG)
def test_every_door_refuses(every_door: list[Door], legal: Case, name: str) -> None:
    problems, said = [], 0
    for door in every_door:
        if door.missing():
            continue
        if isinstance(door, General):
            call = spoiled_in_c(door, legal, name)
        else:
            assert isinstance(door, Python)
            call = spoiled(door, legal, name)
        if call is not None:
            said += 1
            problems.append(refused(door, call))
    assert said
    assert not any(problems), "\n".join(filter(None, problems))


def test_the_legal_call_is_legal(every_door: list[Door], legal: Case) -> None:
    for door in every_door:
        if not door.missing() and not isinstance(door, QuantizedAttention):
            door.forward(legal)


@pytest.mark.parametrize("door", [Sdpa(), Eager()], ids=lambda door: door.name)
@pytest.mark.parametrize(
    ("own", "theirs"), [({"causal": True}, "is_causal"), ({"softmax_scale": 0.5}, "scale")]
)
def test_the_other_name_is_applied_or_refused(
    door: Sdpa, legal: Case, own: dict[str, Any], theirs: str
) -> None:
    """PyTorch's signature has its own names; umfa.attention's are not dropped without a word."""
    if door.missing():
        pytest.skip(str(door.missing()))
    ((_, value),) = own.items()
    plain = {"query": legal.floats["q"], "key": legal.floats["k"], "value": legal.floats["v"]}
    if isinstance(door, Eager):
        plain = {name: tensor(x) for name, x in plain.items()}

    def call(**options: Any) -> Any:
        if isinstance(door, Eager):
            return door.attend(**plain, enable_gqa=True, **options)
        return umfa.MetalSDPA(**options)(**plain, enable_gqa=True)

    named = {theirs: value}
    right = (
        door.attend(**plain, enable_gqa=True, **named)
        if isinstance(door, Eager)
        else umfa.MetalSDPA()(**plain, enable_gqa=True, **named)
    )
    found, message = None, ""
    try:
        found = call(**own)
    except (umfa.MFAError, TypeError) as problem:
        message = str(problem)
    if found is None:
        assert theirs in message
    else:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(right))
