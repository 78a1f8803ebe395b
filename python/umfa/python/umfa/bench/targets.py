"""The speeds that this project sets out to reach, beside what was reached.

They are data for people: nothing fails where one is not met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from umfa.bench.cases import FORMATS_PRESET, PRESETS, QUANTIZE, TRAINING, Case
from umfa.bench.ceilings import Ceilings
from umfa.bench.demo import Decoded
from umfa.bench.engines import OURS
from umfa.bench.formats import costs
from umfa.bench.modes import CACHE_FORMATS, MODES
from umfa.bench.record import Record, by_case, fastest, is_fp32
from umfa.bench.runner import Result


@dataclass(frozen=True)
class Outcome:
    """A floor or ceiling, and the figure found."""

    what: str
    wanted: float
    found: float
    # Whether more is better.
    at_least: bool
    unit: str = "x"
    # What the machine's peaks allow, where they were measured.
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self._reaches(self.found)

    @property
    def beyond_peaks(self) -> bool:
        """Whether the measured peaks do not allow it."""
        return self.limit is not None and not self._reaches(self.limit)

    def _reaches(self, figure: float) -> bool:
        return figure >= self.wanted if self.at_least else figure <= self.wanted


SHAPES = (
    *PRESETS["seeds"],
    *PRESETS["llm"],
    *PRESETS["diffusion"],
    *PRESETS["encoder"],
    *PRESETS["long"],
)


@dataclass(frozen=True)
class Targets:
    """What a class of machines is to reach."""

    name: str
    # Speed over the fastest peer in FP32, in the order of `SHAPES`: FP32, and INT8 Q/K/V exactly.
    forward: tuple[tuple[float, float], ...]
    # Speed of prefill in each recommended format over our FP32.
    prefill: float
    # Time of decoding against `LONG` keys over our FP32, by precision.
    decode: dict[str, float]
    # Time of decoding over the fastest peer in any format, by number of keys and format.
    decode_peer: dict[int, dict[str, float]]
    # Speed of training over PyTorch in the same format, and over its fastest format.
    train: dict[str, float]
    train_any: dict[str, float]
    # Rate at 512 rows or more over the best.
    scaling: float


AVX2 = Targets(
    "AVX2",
    forward=tuple(
        (1.4 if case.preset == "encoder" else 1.25, 1.8 if case.columns <= 64 else 2.2)
        for case in SHAPES
    ),
    prefill=1.0,
    decode={"int8": 0.30, "int4": 0.20},
    decode_peer={
        4096: {"int8_kv": 0.5},
        32768: {"int8_kv": 0.30, "int4_kv": 0.22, "fp16": 0.65},
    },
    train={"fp32": 1.3},
    train_any={"fp16": 1.25, "bf16": 1.25},
    scaling=0.85,
)
AVX512 = Targets(
    "AVX-512",
    forward=(
        (1.25, 2.0),
        (1.25, 2.0),
        (1.3, 2.3),
        (1.3, 2.6),
        (1.5, 2.8),
        (1.3, 2.4),
        (1.3, 2.5),
        (1.25, 2.2),
        (1.35, 2.5),
    ),
    prefill=1.25,
    decode={"int8": 0.28, "int4": 0.18},
    decode_peer={
        4096: {"int8_kv": 0.5},
        32768: {"int8_kv": 0.26, "int4_kv": 0.18, "fp16": 0.65},
    },
    train={"fp32": 1.4, "fp16": 3.0, "bf16": 3.0},
    train_any={},
    scaling=0.88,
)
# The record of 2026-11-22 (commit a5f2bba), rounded down: 0.98 of it in FP32, all of it in INT8 and
# in training.
AMX = replace(
    AVX512,
    name="AMX",
    forward=(
        (0.98 * 1.42, 3.01),
        (0.98 * 1.57, 3.44),
        (0.98 * 1.77, 3.90),
        (0.98 * 1.84, 5.42),
        (0.98 * 2.24, 6.26),
        (0.98 * 1.83, 3.93),
        (0.98 * 1.82, 5.34),
        (0.98 * 1.82, 3.95),
        (0.98 * 1.76, 3.89),
    ),
    train={"fp32": 1.82, "fp16": 3.12, "bf16": 3.40},
)

LONG = 32768
# The formats that are judged, by precision: time of decoding over FP32's.
DECODED = {
    "int8": ("row", "block", "row_group64", "row_group32", "channel", "row_rotate"),
    "int4": ("row", "row_group64", "row_group32", "channel", "recommended"),
}
# Elements quantized a second over those of a plain copy, and who is to reach that.
QUANTIZED = {
    0.50: ("tensor", "row", "row_group64", "row_group32"),
    0.40: ("row_rotate", "recommended_v"),
    0.35: ("channel", "recommended_k"),
}
SCALING_FROM = 512
NEIGHBOUR = 1.6
GGML_Q8 = 10.0
CALL, DECODE_PLAN = 15e-6, 20e-6
MEMORY_BEYOND_OUTPUT = 8 << 20
# Tokens a second in decoding with these caches over those with FP32.
DEMO, DEMO_MODES = 1.0, ("int8_kv", "int4_kv")


def of_machine(record: Record) -> Targets:
    """Those of the instruction set that umfa used; narrower ones are held against AVX2's."""
    isa = str(record.machine.get("isa", ""))
    if isa.endswith("amx"):
        return AMX
    return AVX512 if isa.startswith("avx512") else AVX2


def outcomes(record: Record) -> list[Outcome]:
    """Every target about which the record says something."""
    found: list[Outcome] = []
    aims = of_machine(record)
    groups, limits = by_case(record.results), record.limits()
    for case, results in groups.items():
        for limited in (_forward, _decode, _formats):
            found += limited(aims, case, results, limits)
        for part in (_quantize, _training, _overhead, _neighbour):
            found += part(aims, case, results)
    scaling = [r for case, rs in groups.items() if case.preset == "scaling" for r in rs]
    found += _scaling(aims, scaling)
    found += _demo(record.demo)
    for item in record.memory:
        if item.engine == OURS and item.growth is not None and item.output is not None:
            what = f"memory {item.case.label} {item.storage}{' masked' if item.masked else ''}: "
            beyond = (item.growth - item.output) / 2**20
            wanted = MEMORY_BEYOND_OUTPUT / 2**20
            found.append(Outcome(what + "growth - output", wanted, beyond, False, "MiB"))
    return found


def _time(results: Iterable[Result], engine: str, storage: str) -> float | None:
    for result in results:
        if (result.engine, result.storage) == (engine, storage):
            return result.median
    return None


def _forward(
    aims: Targets, case: Case, results: list[Result], limits: Ceilings | None
) -> Iterator[Outcome]:
    name = f"{case.preset} {case.label}"
    fp32 = _time(results, OURS, "fp32")
    best = fastest(r for r in results if r.engine != OURS and is_fp32(r.storage))
    if case in SHAPES and best is not None and best.median is not None:
        for storage, wanted in zip(("fp32", "int8"), aims.forward[SHAPES.index(case)]):
            ours = _time(results, OURS, storage)
            if ours is not None:
                what = f"{name}: {storage} over FP32 of {best.engine}"
                most = None
                # Multiply-adds do not bound FP32 on a unit for bf16.
                if limits is not None and (storage == "int8" or limits.bf16 is None):
                    most = best.median / limits.seconds(case, storage)
                yield Outcome(what, wanted, best.median / ours, True, limit=most)
    if case in SHAPES:
        ggml, kv = _time(results, "ggml", "q8_0"), _time(results, OURS, "int8_kv")
        if kv is not None and fp32 is not None:
            yield Outcome(f"{name}: int8_kv over our fp32", 1.0, fp32 / kv, True)
        if kv is not None and ggml is not None:
            yield Outcome(f"{name}: int8_kv over Q8_0 of ggml", GGML_Q8, ggml / kv, True)


def _decode(
    aims: Targets, case: Case, results: list[Result], limits: Ceilings | None
) -> Iterator[Outcome]:
    best = fastest(r for r in results if r.engine != OURS)
    if case not in PRESETS["decode"] or best is None or best.median is None:
        return
    for storage, wanted in aims.decode_peer[case.keys].items():
        ours = _time(results, OURS, storage)
        if ours is not None:
            what = f"decode {case.label}: time of {storage} over {best.engine} {best.storage}"
            least = None if limits is None else limits.least(case, MODES[storage]) / best.median
            yield Outcome(what, wanted, ours / best.median, False, limit=least)


def _formats(
    aims: Targets, case: Case, results: list[Result], limits: Ceilings | None
) -> Iterator[Outcome]:
    if case.preset != FORMATS_PRESET or case.stores:
        return
    fp32 = _time(results, OURS, "fp32")
    over_fp32 = {c.result.storage: c.over_fp32 for c in costs(case, results) if c.over_fp32}

    def least(name: str) -> float | None:
        if limits is None or fp32 is None:
            return None
        return limits.least(case, CACHE_FORMATS[name]) / fp32

    if not case.decode:
        for name, over in over_fp32.items():
            if CACHE_FORMATS[name].recommended:
                what = f"prefill {case.label}: {name} over our fp32"
                limit = least(name)
                most = None if limit is None else 1 / limit
                yield Outcome(what, aims.prefill, 1 / over, True, limit=most)
    elif case.keys == LONG:
        for precision, names in DECODED.items():
            for name in (f"{precision}_{ending}" for ending in names):
                if name in over_fp32:
                    what = f"decode {case.label}: time of {name} over our fp32"
                    wanted, found = aims.decode[precision], over_fp32[name]
                    yield Outcome(what, wanted, found, False, limit=least(name))


def _quantize(_aims: Targets, case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case.kind != QUANTIZE:
        return
    shares = {c.result.storage: c.of_copy for c in costs(case, results) if c.of_copy}
    for precision in ("int8", "int4"):
        for wanted, endings in QUANTIZED.items():
            for name in (f"{precision}_{ending}" for ending in endings):
                if name in shares:
                    what = f"quantize {case.label}: rate of {name} over a copy's"
                    yield Outcome(what, 100 * wanted, 100 * shares[name], True, "%")


def _demo(found: list[Decoded]) -> Iterator[Outcome]:
    speeds = {one.mode: one.decode_tokens_per_s for one in found}
    for mode in DEMO_MODES:
        if "fp32" in speeds and mode in speeds:
            what = f"demo: decoding with {mode} over fp32"
            yield Outcome(what, DEMO, speeds[mode] / speeds["fp32"], True)


def _training(aims: Targets, case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case.kind != TRAINING:
        return
    name = f"training {case.label}"
    for storage, wanted in aims.train.items():
        ours, theirs = _time(results, OURS, storage), _time(results, "torch", storage)
        if ours is not None and theirs is not None:
            yield Outcome(f"{name}: {storage} over torch {storage}", wanted, theirs / ours, True)
    best = fastest(r for r in results if r.engine == "torch")
    for storage, wanted in aims.train_any.items():
        ours = _time(results, OURS, storage)
        if ours is not None and best is not None and best.median is not None:
            what = f"{name}: {storage} over torch's fastest, {best.storage}"
            yield Outcome(what, wanted, best.median / ours, True)
    fp32, kv = _time(results, OURS, "fp32"), _time(results, OURS, "int8_kv")
    if fp32 is not None and kv is not None:
        yield Outcome(f"{name}: int8_kv over our fp32", 1.0, fp32 / kv, True)


def _overhead(_aims: Targets, case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case not in PRESETS["overhead"]:
        return
    name, wanted = ("a decode call", DECODE_PLAN) if case.decode else ("a Python call", CALL)
    ours = _time(results, OURS, "fp32")
    if ours is not None:
        what = f"overhead {case.label}: {name}"
        yield Outcome(what, 1e6 * wanted, 1e6 * ours, False, "us")


def _neighbour(_aims: Targets, case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case not in PRESETS["neighbour"]:
        return
    for result in results:
        if result.engine == OURS and result.storage == "fp32" and result.slowdown is not None:
            what = f"{case.label} fp32: slowdown with a busy neighbour"
            yield Outcome(what, NEIGHBOUR, result.slowdown, False)


def _scaling(aims: Targets, results: list[Result]) -> Iterator[Outcome]:
    for storage in ("fp32", "int8"):
        rates = {
            r.case.rows: r.case.flops / r.median
            for r in results
            if (r.engine, r.storage) == (OURS, storage) and r.median
        }
        judged = {rows: rate for rows, rate in rates.items() if rows >= SCALING_FROM}
        if len(judged) > 1:
            slowest = min(judged, key=lambda rows: judged[rows])
            share = judged[slowest] / max(judged.values())
            what = f"scaling {storage}: rate at N={slowest} over the best"
            yield Outcome(what, aims.scaling, share, True)
