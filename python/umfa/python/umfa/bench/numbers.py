"""docs/numbers.md, from the records beside it."""

from __future__ import annotations

from pathlib import Path

from umfa.bench import report, summary
from umfa.bench.record import Record

HEAD = """# Numbers

Do not edit: `umfa bench --report docs/numbers.md` writes this page from `docs/numbers/*.jsonl`, and
`umfa bench --json docs/numbers/NAME.jsonl` makes such a file. Ratios hold on other machines better
than times do; all figures of one record come from one run.

## In a minute

A figure with "x" is a speed: more is better. Other ratios are times: less is better. What a record
does not have is left out.
"""
HOW = """
## How it is measured
"""


def read(folder: Path) -> list[tuple[str, Record]]:
    """The records of a folder by name; a ValueError where there is none."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stem)
    records = [(path.stem, Record.read(path)) for path in paths]
    if not records:
        raise ValueError(f"no records (*.jsonl) in {folder}")
    return records


def render(records: list[tuple[str, Record]]) -> str:
    """The page for these records."""
    parts = [HEAD]
    for name, record in records:
        title, blank, *table = _grid(summary.grid(name, record))
        parts += [title, blank, summary.where(record), blank, *table]
    parts.append(HOW.strip())
    parts += [f"\n{note}" for note in (*report.NOTES, report.ERRORS)]
    parts.append("")
    for name, record in records:
        parts.append(_section(name, record))
    return "\n".join(parts).rstrip() + "\n"


def _section(name: str, record: Record) -> str:
    lines = [f"## {name}", ""]
    for key, value in report.circumstances(record):
        lines.append(f"- {key}: " + (f"`{value}`" if key == "command" else value))
    lines.append("")
    if record.ceilings is not None:
        lines += _grid(_ceilings(record.ceilings))
    special = [report.target_grid(record), report.memory_grid(record), report.demo_grid(record)]
    errors = report.accuracy_grids(record.accuracy)
    for grid in (*special, *report.case_grids(record), *errors):
        if grid is not None and grid.lines:
            lines += _grid(grid)
    refused = report.refusals(record)
    if refused:
        lines += ["Not measured:", "", *[f"- {text}" for text in refused], ""]
    return "\n".join(lines)


def _grid(grid: report.Grid) -> list[str]:
    return [f"### {grid.title}", "", grid.markdown(), ""]


def _ceilings(data: dict[str, object]) -> report.Grid:
    entries = data["ceilings"]
    if not isinstance(entries, list):
        raise ValueError("a record's ceilings are a list")
    counts = sorted({int(n) for entry in entries for n in entry["by_threads"]})
    headings = ["", "unit", *[f"{n} thread{'s' if n > 1 else ''}" for n in counts]]
    grid = report.Grid(f"ceilings ({data['isa']})", headings)
    for entry in entries:
        rates = [report.number(entry["by_threads"].get(str(n)), 4) for n in counts]
        grid.add([entry["name"], entry["unit"], *rates])
    return grid
