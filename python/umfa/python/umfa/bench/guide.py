"""The part of docs/quantization.md that says what each format stores and costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from umfa.bench import formats, summary
from umfa.bench.cases import APPEND, DEQUANTIZE, FORMATS_PRESET, QUANTIZE, Case
from umfa.bench.modes import CACHE_FORMATS, TENSORS, Mode, Stored
from umfa.bench.record import Record, by_case
from umfa.bench.report import Grid, number
from umfa.bench.runner import Result

BEGIN = "<!-- made by umfa bench --report docs/numbers.md -->"
END = "<!-- end of what is made -->"
COLUMNS = 128


def render(page: str, records: list[tuple[str, Record]]) -> str:
    """The page with its part made anew; a ValueError where it has no place for that."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'expected the lines "{BEGIN}" and "{END}"')
    parts = [formats_grid().markdown()]
    for name, record in records:
        costs = costs_grid(record)
        if costs.lines:
            parts += [f"{name} ({summary.where(record)}):", costs.markdown()]
    return "\n\n".join([before + BEGIN, *parts, END + after])


def update(page: Path, records: list[tuple[str, Record]]) -> None:
    """Makes the part anew in the file, where there is one."""
    if page.exists():
        page.write_text(render(page.read_text(), records))


def formats_grid() -> Grid:
    """Every format: its name, the keywords that make it, and its size."""
    grid = Grid("", ["name", "keywords", "bytes an element"])
    for name, mode in CACHE_FORMATS.items():
        size = sum(Stored(mode, operand).bytes_an_element(COLUMNS) for operand in "kv") / 2
        grid.add([f"`{name}`", keywords(mode), number(size)], mode.recommended)
    return grid


def keywords(mode: Mode) -> str:
    """Those of `umfa.quantize`, and for which operands."""
    if mode.precision is None:
        return f"arrays of `{mode.dtype}`"
    shared = f"{', '.join(mode.quantized.upper())}: {_words(mode.precision, mode.quantizer)}"
    own = [f"{operand.upper()}: {_words(None, words)}" for operand, words in mode.own.items()]
    return "; ".join([shared, *own])


def _words(precision: str | None, given: dict[str, Any]) -> str:
    words = [f'"{precision}"'] if precision else []
    for name, value in given.items():
        text = f'"{value}"' if isinstance(value, str) else str(value)
        words.append(text if name == "granularity" and precision else f"{name}={text}")
    return f"`{', '.join(words)}`"


def costs_grid(record: Record) -> Grid:
    """What each format costs on one machine; no line where the record has no formats."""
    cases = {c: rs for c, rs in by_case(record.results).items() if c.preset == FORMATS_PRESET}
    columns = [(_heading(case), dict(_figures(case, results))) for case, results in cases.items()]
    errors = {
        result.storage: number(result.error, 2)
        for case, results in cases.items()
        for result in results
        if not case.stores
    }
    grid = Grid("", ["", *[heading for heading, _ in columns], "error"])
    names = dict.fromkeys((*CACHE_FORMATS, *TENSORS))
    for name in names:
        figures = [found.get(name, "") for _, found in columns]
        if any(figures):
            best = (CACHE_FORMATS.get(name) or TENSORS[name].mode).recommended
            grid.add([f"`{name}`", *figures, errors.get(name, "")], best)
    return grid


def _heading(case: Case) -> str:
    if case.kind in (QUANTIZE, DEQUANTIZE):
        return f"{case.kind}, of a copy"
    if case.kind == APPEND:
        return "append a row, us"
    what = f"decode, {case.keys} keys" if case.decode else f"prefill, D {case.columns}"
    return f"{what}, over FP32"


def _figures(case: Case, results: list[Result]) -> Iterator[tuple[str, str]]:
    for cost in formats.costs(case, results):
        if case.kind == APPEND:
            text = number(1e6 * (cost.result.median or 0))
        elif case.stores:
            text = "" if cost.of_copy is None else f"{100 * cost.of_copy:.0f} %"
        else:
            text = number(cost.over_fp32)
        yield cost.result.storage, text
