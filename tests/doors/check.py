"""Sends a description through doors, and holds what comes out to the reference."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from case import Case
from contract import REFUSED, UNSUPPORTED, Refused
from description import Call
from doors import Door

import umfa

MANY = int(os.environ.get("UMFA_DOORS_EXAMPLES", "250"))
"""Descriptions of each test."""
WHOLE = MANY >= 250
FEW = MANY < 25
"""The device is one in software."""


@dataclass
class Count:
    calls: int = 0
    refused: int = 0
    unsupported: int = 0
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))


COUNTS: dict[str, Count] = defaultdict(Count)


SAID: list[str] = []
"""Other lines for the end."""


def summary() -> list[str]:
    """A line for each door."""
    lines = []
    for name, count in COUNTS.items():
        skipped = sum(count.skipped.values())
        line = f"{name:<30} {count.calls:>6} calls {count.refused:>5} refused {skipped:>5} skipped"
        if count.unsupported:
            line += f" {count.unsupported} not supported by the device"
        lines.append(line)
    total = sum(count.calls for count in COUNTS.values())
    return [*lines, f"{total} calls by {len(COUNTS)} doors", *SAID]


def refusal(problem: BaseException) -> bool:
    """Whether an exception is how a door refuses."""
    if isinstance(problem, Refused):
        return problem.status in REFUSED
    return isinstance(problem, (umfa.MFAError, TypeError))


def unsupported(problem: BaseException) -> bool:
    if isinstance(problem, Refused):
        return problem.status == UNSUPPORTED
    return isinstance(problem, umfa.Unsupported)


def _wrong(door: Door, case: Case) -> list[str]:
    """What is wrong with a door's results."""
    view = door.view(case)
    found = door.forward(case)
    COUNTS[door.name].calls += 1
    expected = view.forward(door.expected(case)) if found else {}
    exact = "fp64" if door.double else "fp32"
    problems = [(name, expected[name].problem(found[name], exact)) for name in found]
    if case.call.grad:
        gradients = door.backward(case)
        if gradients is not None:
            COUNTS[door.name].calls += 1
            given = found if door.gives_output else {}
            right = view.gradients(door.expected(case), given)
            problems += [
                (f"gradient of {name}", right[name].problem(x, door.gradient(case, name)))
                for name, x in gradients.items()
            ]
    return [f"{door.name}: {name}: {problem}" for name, problem in problems if problem]


def check(call: Call, doors: Iterable[Door]) -> None:
    """Every door that can make a legal call makes it right."""
    case = Case(call)
    wrong: list[str] = []
    for door in doors:
        reason = door.missing() or door.cannot(case)
        if reason:
            COUNTS[door.name].skipped[reason] += 1
            continue
        try:
            wrong += _wrong(door, case)
        except Exception as problem:
            if unsupported(problem) and not os.environ.get("MFA_REQUIRE_ALL"):
                COUNTS[door.name].unsupported += 1
                continue
            wrong.append(f"{door.name}: {type(problem).__name__}: {problem}")
    assert not wrong, "\n".join([*wrong, repr(call)])


def refused(door: Door, call: Any) -> str | None:
    """Why a call that is nonsense was not refused as it should be, or None."""
    COUNTS[door.name].calls += 1
    try:
        call()
    except Exception as problem:
        if refusal(problem):
            COUNTS[door.name].refused += 1
            return None if str(problem) else f"{door.name}: refused without a message"
        return f"{door.name}: {type(problem).__name__}: {problem}"
    return f"{door.name}: accepted"
