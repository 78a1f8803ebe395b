"""Tables for the terminal and for Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from umfa.bench import accuracy, formats, targets
from umfa.bench.accuracy import Measured
from umfa.bench.cases import APPEND, FORMATS_PRESET, TRAINING, Case
from umfa.bench.ceilings import Ceilings
from umfa.bench.memory import Memory
from umfa.bench.modes import CACHE_FORMATS, TENSORS
from umfa.bench.record import Record, Row, by_case, rows
from umfa.bench.runner import Result

NOTES = (
    "Medians of rounds in which all contestants take turns; ms min is the fastest call. Operands "
    "are converted and quantized beforehand (ours per row); from floats: ms of the call that is "
    "given floats and quantizes them itself, which decoding does not: its cache is there.",
    "GFLOP/s = 2 B H Nq Nk (D + Dv) / t, halved for causal; forward and backward together count "
    "3.5 times that. GB/s = bytes of K and V / t.",
    "Ceiling: the time that the products and the softmax would take at the measured peaks, one "
    "after the other (or that reading K and V would take, if longer), over the measured time.",
    "Of FMA, of BF16: GFLOP/s over the peak of FP32 multiply-adds, and over that of the unit for "
    "bf16 where it was measured. Counted are 4 B H N^2 D forward and 10 B H N^2 D backward, "
    "however many products of bf16 make up one of FP16 or FP32.",
    "Limit, beside a target: the ratio at which reading K and V once, or the products of the "
    "format (FP32 in decoding; in prefill FP32 for Q K, and 16 bits for P V where rows of V have "
    "one scale each), would run at the measured peaks, over our measured FP32.",
    "x FP32, x any: the time of the fastest peer in FP32, and in any format, over ours.",
    "Error: RMSE relative to the RMS of float64 attention on the FP32 operands, so rounding of "
    "operands is part of it; for gradients, the largest of dQ, dK and dV.",
    f"Formats: {formats.DEFINITION} What is quantized by blocks of rows is appended in whole "
    "blocks, and the time is that of one row. Error of what is stored: RMSE of the tensor read "
    "back, relative to its RMS. In bold: what the guide recommends for a cache.",
    "umfa demo: prefill s, time in attention while the text is read; tokens/s, decoding after it "
    "by the whole model; ms/token, attention alone in a step, storing the new row included.",
)
# What the tables of quantization errors mean.
ERRORS = " ".join(
    [accuracy.DEFINITION, *(f"{keys.name}: {keys.description}." for keys in accuracy.KEYS)]
)


@dataclass
class Grid:
    """A table of text: its title, the headings, and whether a line is ours."""

    title: str
    headings: list[str]
    lines: list[list[str]] = field(default_factory=list)
    ours: list[bool] = field(default_factory=list)

    def add(self, cells: Sequence[str], ours: bool = False) -> None:
        """One more line."""
        self.lines.append(list(cells))
        self.ours.append(ours)

    def rich(self) -> Table:
        """For a terminal; the first two columns are names."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < 1 else "right", no_wrap=i == 0)
        for cells, ours in zip(self.lines, self.ours):
            table.add_row(*cells, style="bold" if ours else "")
        return table

    def markdown(self) -> str:
        """For a document."""
        rule = [":--", *["--:"] * (len(self.headings) - 1)]
        lines = [self.headings, rule]
        for cells, ours in zip(self.lines, self.ours):
            lines.append([f"**{c}**" if ours and c else c for c in cells])
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, without an exponent where there is room; empty for None."""
    if value is None:
        return ""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def case_grid(case: Case, results: Sequence[Result], limits: Ceilings | None) -> Grid:
    """One case: a line for each library and format."""
    if case.preset == FORMATS_PRESET:
        return _formats_grid(case, results)
    kind = ", forward + backward" if case.kind == TRAINING else ""
    found = rows(results, limits)
    unit = next((row.unit for row in found if row.unit), "")
    headings = ["", "ms", "ms min", unit, "ceiling", "x FP32", "x any", "error"]
    floats = any(row.from_floats is not None for row in found)
    neighbour = any(row.result.slowdown is not None for row in found)
    if neighbour:
        headings.append("slowdown")
    peaks = _peaks(case, limits)
    headings[5:5] = peaks
    if floats:
        headings.insert(3, "from floats")
    grid = Grid(f"{case.preset}: {case.label}{kind}", headings)
    for row in found:
        if row.result.median is not None:
            cells = _cells(row)
            cells[5:5] = [_percent((row.rate or 0.0) * 1e9 / peak) for peak in peaks.values()]
            if floats:
                cells.insert(3, number(_milli(row.from_floats), 4))
            grid.add(cells if neighbour else cells[:-1], row.ours)
    return grid


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _formats_grid(case: Case, results: Sequence[Result]) -> Grid:
    """What every format costs in one case."""
    found = formats.costs(case, results)
    ruler = formats.ruler(results)
    appends = case.kind == APPEND
    columns: list[tuple[str, list[str]]] = [
        ("", [cost.result.storage for cost in found]),
        (
            "us" if appends else "ms",
            [number((1e6 if appends else 1e3) * (cost.result.median or 0), 4) for cost in found],
        ),
        ("over FP32", [number(cost.over_fp32) for cost in found]),
        ("over FP16", [number(cost.over_fp16) for cost in found]),
        ("over bytes", [number(cost.over_bytes) for cost in found]),
        ("of copy", [_percent(cost.of_copy) for cost in found]),
        ("from floats", [number(_milli(cost.from_floats), 4) for cost in found]),
        ("that over FP32", [number(cost.from_floats_over_fp32) for cost in found]),
        ("error", [number(cost.result.error, 2) for cost in found]),
    ]
    columns = [(heading, cells) for heading, cells in columns if any(cells) or not heading]
    grid = Grid(formats.title(case) + (f"; {ruler}" if ruler else ""), [h for h, _ in columns])
    for cost, *cells in zip(found, *(cells for _, cells in columns)):
        grid.add(cells, _recommended(cost.result.storage))
    return grid


def _recommended(name: str) -> bool:
    if name in TENSORS:
        return TENSORS[name].mode.recommended
    return name in CACHE_FORMATS and CACHE_FORMATS[name].recommended


def _peaks(case: Case, limits: Ceilings | None) -> dict[str, float]:
    """Headings and peaks that the rate of training is held against."""
    if case.kind != TRAINING or limits is None:
        return {}
    peaks = {"of FMA": limits.fma, "of BF16": limits.bf16}
    return {heading: peak for heading, peak in peaks.items() if peak is not None}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _cells(row: Row) -> list[str]:
    r = row.result
    return [
        f"{r.engine} {r.storage}",
        number(_milli(r.median), 4),
        number(_milli(r.minimum), 4),
        number(row.rate),
        _percent(row.ceiling),
        number(row.ratio_fp32),
        number(row.ratio_any),
        number(r.error, 2),
        number(r.slowdown),
    ]


def case_grids(record: Record) -> list[Grid]:
    """All cases of a record, in order."""
    limits = record.limits()
    return [case_grid(case, group, limits) for case, group in by_case(record.results).items()]


def memory_grid(record: Record) -> Grid | None:
    """Peak memory; None where it was not measured."""
    if not record.memory:
        return None
    headings = ["", "mask", "growth MiB", "output MiB", "beyond output MiB", "workspace MiB"]
    grid = Grid(f"peak memory: {record.memory[0].case.label}", headings)
    for item in record.memory:
        if item.growth is None or item.output is None:
            continue
        beyond = item.growth - item.output
        sizes = [item.growth, item.output, beyond, item.workspace]
        cells = ["" if size is None else f"{size / 2**20:.1f}" for size in sizes]
        name, mask = f"{item.engine} {item.storage}", "BOOL" if item.masked else ""
        grid.add([name, mask, *cells], item.engine == "umfa")
    return grid


def demo_grid(record: Record) -> Grid | None:
    """The model of the demo with each cache; None where it did not run."""
    if not record.demo:
        return None
    headings = ["", "perplexity", "K/V MB", "prefill s", "tokens/s", "x FP32", "ms/token"]
    grid = Grid(f"umfa demo: {record.demo[0].case}", headings)
    speeds = {one.mode: one.decode_tokens_per_s for one in record.demo}
    for one in record.demo:
        cells = [
            number(one.perplexity, 4),
            number(one.kv_cache_bytes / 1e6),
            number(one.prefill_attention_s),
            number(one.decode_tokens_per_s),
            number(formats.ratio(one.decode_tokens_per_s, speeds.get("fp32"))),
            number(1e3 * one.decode_attention_s_per_token),
        ]
        grid.add([one.mode, *cells])
    return grid


def accuracy_grids(found: Sequence[Measured]) -> list[Grid]:
    """Errors of quantization: a table for each shape and choice of quantized operands."""
    grids: dict[tuple[str, str], Grid] = {}
    kinds = [keys.name for keys in accuracy.KEYS]
    cells: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for one in found:
        where = (one.shape, one.quantized)
        if where not in grids:
            headings = ["", *[f"{kind}: % {of}" for kind in kinds for of in "OV"]]
            letters = "/".join(one.quantized.upper())
            grids[where] = Grid(f"error of quantized {letters}: {one.shape}", headings)
        errors = (one.relative_to_output, one.relative_to_values)
        row = cells.setdefault((*where, one.way), {})
        row[one.keys] = [f"{100 * error:.3f}" for error in errors]
    for (shape, quantized, way), row in cells.items():
        figures = [cell for kind in kinds for cell in row.get(kind, ["", ""])]
        grids[shape, quantized].add([way, *figures])
    return list(grids.values())


def target_grid(record: Record) -> Grid | None:
    """Targets; None where the record says nothing about any."""
    found = targets.outcomes(record)
    if not found:
        return None
    aims = targets.of_machine(record)
    limited = any(outcome.limit is not None for outcome in found)
    headings = ["", "wanted", "found", "limit", ""] if limited else ["", "wanted", "found", ""]
    grid = Grid(f"targets ({aims.name})", headings)
    for outcome in found:
        sign = "≥" if outcome.at_least else "≤"
        unit = "" if outcome.unit == "x" else f" {outcome.unit}"
        grid.add(
            [
                outcome.what,
                f"{sign} {number(outcome.wanted)}{unit}",
                f"{number(outcome.found)}{unit}",
                *([number(outcome.limit)] if limited else []),
                "met" if outcome.met else "not met",
            ]
        )
    return grid


def refusals(record: Record) -> list[str]:
    """Who could not take part in what, and why."""
    found = [f"{engine}: {reason}" for engine, reason in record.absent.items()]
    everything: list[Result | Memory] = [*record.results, *record.memory]
    for result in everything:
        if result.refused:
            reason = result.refused.strip().splitlines()[0]
            found.append(f"{result.case.label}, {result.engine} {result.storage}: {reason}")
    return found


def instruction_set(record: Record) -> str:
    """That of umfa, and the switches that kept libraries from others."""
    switches = record.machine.get("switches", [])
    beside = f" ({' '.join(switches)})" if switches else ""
    return f"{record.machine.get('isa')}{beside}"


def circumstances(record: Record) -> list[tuple[str, str]]:
    """When, where, with what."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    noise = record.noise
    quiet = (
        f"{noise.get('busy_rounds')} of {noise.get('rounds')} rounds began on a busy machine; "
        f"waited {noise.get('waited', 0):.0f} s for quiet"
    )
    features = " ".join(record.machine.get("features", []))
    machine = (
        f"{record.machine.get('processor')}, {record.machine.get('cores')} cores, "
        f"{record.machine.get('memory_gib')} GiB, {record.machine.get('system')}; {features}"
    )
    return [
        ("date", record.date),
        ("commit", record.commit or "not recorded"),
        ("command", record.command),
        ("machine", machine),
        ("instruction set of umfa", instruction_set(record)),
        ("threads", str(record.settings.get("threads"))),
        ("versions", versions),
        ("quiet", quiet),
    ]
