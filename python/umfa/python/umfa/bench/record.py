"""A run as data: what was measured, where, with what, and when; and the figures derived from it."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from umfa._files import writing
from umfa.bench.accuracy import Measured
from umfa.bench.cases import FORMATS_PRESET, Case
from umfa.bench.ceilings import BYTES, Ceilings, parse
from umfa.bench.demo import Decoded
from umfa.bench.engines import OURS
from umfa.bench.memory import Memory
from umfa.bench.modes import FROM_FLOATS
from umfa.bench.runner import Result

SCHEMA = 2
# What keeps libraries from instructions that the machine has: umfa, PyTorch, oneDNN.
SWITCHES = ("MFA_CPU_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# The lists of a record: each element is a line of the file.
LISTS = ("results", "memory", "accuracy", "demo")


@dataclass
class Record:
    """Everything that one run of the benchmark leaves behind."""

    results: list[Result]
    memory: list[Memory] = field(default_factory=list)
    accuracy: list[Measured] = field(default_factory=list)
    demo: list[Decoded] = field(default_factory=list)
    date: str = ""
    # Of the checkout that the run was started in; "" outside one.
    commit: str = ""
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, Any] | None = None

    def limits(self) -> Ceilings | None:
        """The ceilings for this run's threads; None where they were not measured."""
        if self.ceilings is None:
            return None
        return parse(self.ceilings, int(self.settings.get("threads", 1)))

    def lines(self) -> list[str]:
        """JSON Lines: the circumstances, then a line for each figure, with date and commit."""
        data = {"schema": SCHEMA, **asdict(self)}
        lists = [(name, data.pop(name)) for name in LISTS]
        when = {"date": self.date, "commit": self.commit}
        figures = ({"in": name, **when, **item} for name, items in lists for item in items)
        return [json.dumps(line) for line in (data, *figures)]

    @staticmethod
    def parse(lines: Iterable[str]) -> Record:
        """The reverse of `lines`; a ValueError for another schema."""
        known, *figures = [json.loads(line) for line in lines]
        schema = known.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(f"a record of schema {schema}, expected {SCHEMA}")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
        for figure in figures:
            del figure["date"], figure["commit"]
            found[figure.pop("in")].append(figure)
        return Record(
            results=[Result.from_json(item) for item in found["results"]],
            memory=[Memory.from_json(item) for item in found["memory"]],
            accuracy=[Measured(**item) for item in found["accuracy"]],
            demo=[Decoded(**item) for item in found["demo"]],
            **known,
        )

    def write(self, path: Path) -> None:
        """Into a file of JSON Lines."""
        with writing(path):
            path.write_text("\n".join(self.lines()) + "\n")

    @staticmethod
    def read(path: Path) -> Record:
        """From a file of JSON Lines."""
        return Record.parse(path.read_text().splitlines())


def machine(isa: str) -> dict[str, Any]:
    """The processor, its number of cores, memory and system."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "isa": isa,
    }
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if os.environ.get(name)]
    if switches:
        found["switches"] = switches
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text().split("\n\n", 1)[0].splitlines()
        pairs = (line.partition(":") for line in first)
        text = {name.strip(): value.strip() for name, _, value in pairs}
        found["processor"] = text.get("model name", found["processor"])
        flags = text.get("flags", "").split()
        # What decides which kernels a library may choose.
        known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")
        found["features"] = [f for f in (*known, "amx_int8", "amx_bf16") if f in flags]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found["memory_gib"] = round(total / 2**30, 1)
    return found


def command() -> str:
    """The command line, without the folders of this machine."""
    words = ["umfa", *sys.argv[1:]]
    return " ".join("=".join(_name(part) for part in word.split("=")) for word in words)


def _name(word: str) -> str:
    return Path(word).name if word.startswith(("/", "~")) else word


def commit() -> str:
    """The commit of the checkout that this was started in; "" outside one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def now() -> str:
    """Date and minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


@dataclass(frozen=True)
class Row:
    """One result with what follows from it and from the others of its case."""

    result: Result
    # Effective rate: products only, halved under a causal mask; for decoding, bytes of K and V;
    # of formats, all bytes that are read and written.
    rate: float | None
    unit: str
    ceiling: float | None
    # Time of the fastest peer over ours: in FP32, and in any format. For ours alone.
    ratio_fp32: float | None
    ratio_any: float | None
    # Seconds of the same on floats that the call itself quantizes.
    from_floats: float | None = None

    @property
    def ours(self) -> bool:
        """Whether it is umfa's."""
        return self.result.engine == OURS


def fastest(results: Iterable[Result]) -> Result | None:
    """The one with the smallest median."""
    timed = [r for r in results if r.median is not None]
    return min(timed, key=lambda r: r.median or 0.0, default=None)


def is_fp32(storage: str) -> bool:
    """FP32, in whatever form a peer is called."""
    return storage.split(" ")[0] == "fp32"


def rows(results: Sequence[Result], limits: Ceilings | None) -> list[Row]:
    """The results of one case: ours first, then peers, fastest first."""
    peers = [r for r in results if r.engine != OURS]
    best_any = fastest(peers)
    best_fp32 = fastest(r for r in peers if is_fp32(r.storage))
    floats = {r.storage: r.median for r in results if r.storage.endswith(FROM_FLOATS)}
    found = [
        replace(
            _row(result, best_fp32, best_any, limits),
            from_floats=floats.get(result.storage + FROM_FLOATS),
        )
        for result in results
        if result.storage not in floats
    ]
    timed = float("inf")
    return sorted(
        found, key=lambda row: (not row.ours, 0 if row.ours else row.result.median or timed)
    )


def _row(
    result: Result,
    best_fp32: Result | None,
    best_any: Result | None,
    limits: Ceilings | None,
) -> Row:
    case, median = result.case, result.median
    if median is None:
        return Row(result, None, "", None, None, None)
    if case.stores or case.preset == FORMATS_PRESET:
        passed = None if result.bytes is None else result.bytes / median / 1e9
        return Row(result, passed, "GB/s", None, None, None)
    rate, unit = case.flops / median / 1e9, "GFLOP/s"
    if case.decode:
        rate, unit = case.kv_elements * stored_bytes(result.storage) / median / 1e9, "GB/s"
    share = None
    judged = result.engine == OURS or is_fp32(result.storage)
    # What is measured for its overhead is far from any peak, and reads from caches.
    if limits is not None and judged and case.preset != "overhead":
        share = limits.seconds(case, result.storage.split(" ")[0]) / median

    def against(best: Result | None) -> float | None:
        if result.engine != OURS or best is None or best.median is None:
            return None
        return best.median / median

    return Row(result, rate, unit, share, against(best_fp32), against(best_any))


def stored_bytes(storage: str) -> float:
    """Bytes of an element of K or V; scales not counted."""
    return BYTES.get(storage.split(" ")[0], BYTES["int8"])


def by_case(results: Iterable[Result]) -> dict[Case, list[Result]]:
    """In the order in which cases were measured."""
    groups: dict[Case, list[Result]] = {}
    for result in results:
        groups.setdefault(result.case, []).append(result)
    return groups


COLUMNS = (
    "preset",
    "case",
    "kind",
    "engine",
    "format",
    "median_ms",
    "minimum_ms",
    "from_floats_ms",
    "rate",
    "unit",
    "ceiling_share",
    "ratio_fp32",
    "ratio_any",
    "error",
    "slowdown",
    "refused",
)


def write_csv(record: Record, path: Path) -> None:
    """One line for each result."""
    limits = record.limits()
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for case, group in by_case(record.results).items():
            for row in rows(group, limits):
                r = row.result
                times = [
                    None if t is None else 1e3 * t for t in (r.median, r.minimum, row.from_floats)
                ]
                derived = (row.rate, row.unit, row.ceiling, row.ratio_fp32, row.ratio_any)
                head = (case.preset, case.label, case.kind, r.engine, r.storage)
                out.writerow((*head, *times, *derived, r.error, r.slowdown, r.refused))
