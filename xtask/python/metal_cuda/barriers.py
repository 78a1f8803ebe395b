"""The barriers of texts: where they are, and texts without one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BARRIER = re.compile(r"(threadgroup|simdgroup)_barrier\((?:[^()]|\([^()]*\))*\);")


@dataclass(frozen=True)
class Barrier:
    kernel: str
    """First word of the text's first line, or the kernel before it in a library."""
    index: int
    """Among those of its text."""
    line: int
    around: tuple[str, ...]
    """The lines before and after it, without numbers: the same place in other texts."""


def barriers(text: str) -> list[Barrier]:
    lines = text.splitlines()
    result = []
    for index, match in enumerate(_BARRIER.finditer(text)):
        line = text.count("\n", 0, match.start())
        around = tuple(
            _shape(lines[at])
            for at in (line - 2, line - 1, line + 1, line + 2)
            if 0 <= at < len(lines)
        )
        result.append(
            Barrier(_kernel(text, match.start()), index, line + 1, (match.group(), *around))
        )
    return result


def _kernel(text: str, at: int) -> str:
    if text.startswith("// "):
        first, second = text.splitlines()[:2]
        kernel = first[3:].split(",")[0]
        return (
            ("prefill" if "keys a tile" in second else "decode") if kernel == "forward" else kernel
        )
    functions = re.findall(r"^(?:kernel void|static \w+) (\w+)\(", text[:at], re.MULTILINE)
    return functions[-1] if functions else "?"


def _shape(line: str) -> str:
    """A line without its numbers and the names of operands."""
    return re.sub(r"\b(q|k|v|do|dk|dq|dv)(_\w+)?\b", r"x\2", re.sub(r"\d+", "#", line.strip()))


def without(text: str, *indices: int) -> str:
    """The text without some of its barriers; lines stay where they were."""
    count = -1

    def cut(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return ";" if count in indices else match.group()

    return _BARRIER.sub(cut, text)


def run_around(silent: set[int], index: int) -> tuple[int, ...]:
    """The barriers from `index` to both sides, without a gap, that are all in `silent`."""
    first = last = index
    while first - 1 in silent:
        first -= 1
    while last + 1 in silent:
        last += 1
    return tuple(range(first, last + 1))
