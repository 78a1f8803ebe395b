"""A record in a minute: its figures as lines of one table, those that it lacks left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from umfa.bench import formats, targets
from umfa.bench.cases import APPEND, DEQUANTIZE, FORMATS_PRESET, QUANTIZE, TRAINING, Case
from umfa.bench.engines import OURS
from umfa.bench.modes import CACHE_FORMATS, TENSORS
from umfa.bench.record import Record, by_case, fastest
from umfa.bench.report import Grid, instruction_set, number
from umfa.bench.runner import Result

Groups = dict[Case, list[Result]]
# What the command line names the formats of the modes.
NAMES = {
    "fp32": "FP32",
    "fp16": "FP16",
    "bf16": "BF16",
    "int8": "INT8",
    "int8_kv": "INT8 K/V",
    "int4_kv": "INT4 K/V",
}


def where(record: Record) -> str:
    """The machine, the time and the peers, in a line."""
    machine, peers = record.machine, [n for n in record.versions if n != OURS]
    line = (
        f"{machine.get('processor')}, {machine.get('cores')} cores, {instruction_set(record)}; "
        f"{record.settings.get('threads')} threads; {record.date[:10]}"
    )
    return f"{line}; beside {', '.join(peers)}" if peers else line


def grid(name: str, record: Record) -> Grid:
    """The summary of one record."""
    found = Grid(name, ["", ""])
    groups = by_case(record.results)
    parts = (_forward, _decode, _prefill, _stored, _training, _calls, _scaling)
    for what, figure in (line for part in parts for line in part(groups)):
        found.add([what, figure])
    for what, figure in (*_memory(record), *_demo(record), *_targets(record)):
        found.add([what, figure])
    return found


def _ratio(results: Sequence[Result], storage: str, peers: Iterable[Result]) -> float | None:
    """Time of the fastest of the peers over ours."""
    best = fastest(peers)
    ours = next((r.median for r in results if (r.engine, r.storage) == (OURS, storage)), None)
    return None if best is None else formats.ratio(best.median, ours)


def _span(values: Iterable[float | None], unit: str = "x", digits: int = 2) -> str:
    """From the least to the largest, or the one; "" for none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    ends = dict.fromkeys(number(end, digits) for end in (min(known), max(known)))
    return " to ".join(ends) + unit


def _joined(figures: dict[str, str]) -> str:
    """The figures that are there, each with its name."""
    return ", ".join(f"{name} {figure}" for name, figure in figures.items() if figure)


def _lines(*lines: tuple[str, str]) -> Iterator[tuple[str, str]]:
    return ((what, figure) for what, figure in lines if figure)


def _forward(groups: Groups) -> Iterator[tuple[str, str]]:
    cases = [results for case, results in groups.items() if case in targets.SHAPES]

    def over(storage: str, kind: str) -> str:
        def rivals(results: Sequence[Result]) -> list[Result]:
            peers = [r for r in results if r.engine != OURS]
            return [r for r in peers if r.storage.split(" ")[0] == kind]

        return _span(_ratio(results, storage, rivals(results)) for results in cases)

    return _lines(
        ("speed over the fastest FP32 of a peer, FP32", over("fp32", "fp32")),
        ("speed over the same, INT8 Q/K/V", over("int8", "fp32")),
        ("speed over the same, INT8 K/V", over("int8_kv", "fp32")),
        ("speed over the fastest BF16 of a peer, BF16", over("bf16", "bf16")),
    )


def _longest(groups: Groups, preset: str) -> tuple[Case, list[Result]] | None:
    decoded = [(case, rs) for case, rs in groups.items() if case.preset == preset and case.decode]
    return max(decoded, key=lambda one: one[0].keys, default=None)


def _decode(groups: Groups) -> Iterator[tuple[str, str]]:
    lines = []
    longest = _longest(groups, "decode")
    if longest is not None:
        case, results = longest
        peers = [r for r in results if r.engine != OURS]
        times = {
            NAMES[storage]: number(formats.ratio(1, _ratio(results, storage, peers)), 2)
            for storage in ("fp16", "int8_kv", "int4_kv")
        }
        what = f"decoding against {case.keys} keys, time over the fastest peer in any format"
        lines.append((what, _joined(times)))
    longest = _longest(groups, FORMATS_PRESET)
    if longest is not None:
        case, results = longest
        over = {c.result.storage: c.over_fp32 for c in formats.costs(case, results)}
        for precision in ("int8", "int4"):
            quantized = {n: t for n, t in over.items() if n.startswith(precision)}
            name = precision.upper()
            what = f"decoding, time over our FP32, {name} in all formats of the guide"
            recommended = {
                n: number(t, 2) for n, t in quantized.items() if CACHE_FORMATS[n].recommended
            }
            figures = [_span(quantized.values(), ""), _joined(recommended)]
            lines.append((what, "; ".join(text for text in figures if text)))
    return _lines(*lines)


def _prefill(groups: Groups) -> Iterator[tuple[str, str]]:
    prepared: dict[str, list[float | None]] = {}
    floats: dict[str, list[float | None]] = {}
    for case, results in groups.items():
        if case.preset != FORMATS_PRESET or case.decode or case.stores:
            continue
        for cost in formats.costs(case, results):
            name = cost.result.storage
            if CACHE_FORMATS[name].recommended:
                prepared.setdefault(name, []).append(formats.ratio(1, cost.over_fp32))
                floats.setdefault(name, []).append(formats.ratio(1, cost.from_floats_over_fp32))
    what = "prefill with K/V as recommended, speed over our FP32"
    return _lines(
        (what, _joined({name: _span(values) for name, values in prepared.items()})),
        (
            "prefill from floats, quantizing included, over our FP32",
            _joined({name: _span(values) for name, values in floats.items()}),
        ),
    )


def _stored(groups: Groups) -> Iterator[tuple[str, str]]:
    lines = []
    for case, results in groups.items():
        costs = formats.costs(case, results) if case.stores else []
        best = [c for c in costs if TENSORS[c.result.storage].mode.recommended]
        if case.kind in (QUANTIZE, DEQUANTIZE):
            figures = {
                c.result.storage: f"{100 * c.of_copy:.0f} %" for c in best if c.of_copy is not None
            }
            lines.append((f"{case.kind}, rate over that of a copy", _joined(figures)))
        elif case.kind == APPEND:
            figures = {c.result.storage: f"{1e6 * (c.result.median or 0):.2g} us" for c in best}
            lines.append(("append a row to a cache", _joined(figures)))
    return _lines(*lines)


def _training(groups: Groups) -> Iterator[tuple[str, str]]:
    found: dict[str, list[float | None]] = {}
    for case, results in groups.items():
        if case.kind == TRAINING:
            for storage in ("fp32", "fp16", "bf16"):
                same = [r for r in results if (r.engine, r.storage) == ("torch", storage)]
                found.setdefault(NAMES[storage], []).append(_ratio(results, storage, same))
    spans = {name: _span(values) for name, values in found.items()}
    return _lines(("training, speed over PyTorch in the same format", _joined(spans)))


def _calls(groups: Groups) -> Iterator[tuple[str, str]]:
    lines = []
    for case, results in groups.items():
        ours = formats.seconds([r for r in results if r.engine == OURS], "fp32")
        if case.preset == "overhead" and not case.decode and ours is not None:
            lines.append(("a small call from Python", f"{1e6 * ours:.2g} us"))
        if case.preset == "neighbour":
            slowdowns = [r.slowdown for r in results if (r.engine, r.storage) == (OURS, "fp32")]
            lines.append(
                ("slowdown while a neighbour keeps a core busy", _span(slowdowns, digits=3))
            )
    return _lines(*lines)


def _scaling(groups: Groups) -> Iterator[tuple[str, str]]:
    rates: dict[str, list[float]] = {}
    for case, results in groups.items():
        for result in results:
            if case.preset == "scaling" and result.engine == OURS and result.median:
                rates.setdefault(result.storage, []).append(case.flops / result.median / 1e9)
    peaks = {NAMES.get(n, n): f"{max(found):.0f} GFLOP/s" for n, found in rates.items() if found}
    return _lines(("the best rate on 8 heads of D 64", _joined(peaks)))


def _memory(record: Record) -> Iterator[tuple[str, str]]:
    beyond: dict[str, float] = {}
    for item in record.memory:
        if item.masked and item.growth is not None and item.output is not None:
            size = (item.growth - item.output) / 2**20
            beyond[item.engine] = max(beyond.get(item.engine, -math.inf), size)
    keys = record.memory[0].case.keys if record.memory else 0
    what = f"peak memory beyond the output with {keys} keys and a mask, MiB"
    return _lines((what, _joined({name: f"{size:.0f}" for name, size in beyond.items()})))


def _demo(record: Record) -> Iterator[tuple[str, str]]:
    speeds = {NAMES[d.mode]: number(d.decode_tokens_per_s) for d in record.demo if d.mode in NAMES}
    alone = {
        NAMES[d.mode]: number(1e3 * d.decode_attention_s_per_token, 2)
        for d in record.demo
        if d.mode in NAMES
    }
    return _lines(
        ("umfa demo, decoding, tokens/s", _joined(speeds)),
        ("umfa demo, attention alone, ms a token", _joined(alone)),
    )


def _targets(record: Record) -> Iterator[tuple[str, str]]:
    found = targets.outcomes(record)
    met = sum(outcome.met for outcome in found)
    beyond = sum(outcome.beyond_peaks and not outcome.met for outcome in found)
    if found:
        more = f"; {beyond} not within the measured peaks" if beyond else ""
        name = f"targets that are met ({targets.of_machine(record).name})"
        yield name, f"{met} of {len(found)}{more}"
