"""The speeds that this project sets out to reach, beside what was reached.

They are data for people: nothing fails where one is not met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from umfa.bench.cases import PRESETS, TRAINING, Case
from umfa.bench.engines import OURS
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

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted


# Speed of ours over the fastest peer in FP32, by case: FP32, and INT8 Q/K/V in the exact mode.
FORWARD: dict[Case, tuple[float, float]] = dict(
    zip(
        (
            *PRESETS["seeds"],
            *PRESETS["llm"],
            *PRESETS["diffusion"],
            *PRESETS["encoder"],
            *PRESETS["long"],
        ),
        (
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
    )
)
# Time of ours over the fastest peer in any format, by number of keys.
DECODE = {4096: {"int8_kv": 0.5}, 32768: {"int8_kv": 0.45, "int4_kv": 0.3, "fp16": 0.65}}
# Speed of ours over PyTorch in the same format.
TRAIN = {"fp32": 1.4, "fp16": 3.0, "bf16": 3.0}
SCALING_FROM, SCALING = 512, 0.85
NEIGHBOUR = 1.6
GGML_Q8 = 10.0
CALL, DECODE_PLAN = 15e-6, 20e-6
MEMORY_BEYOND_OUTPUT = 8 << 20


def outcomes(record: Record) -> list[Outcome]:
    """Every target about which the record says something."""
    found: list[Outcome] = []
    groups = by_case(record.results)
    for case, results in groups.items():
        for part in (_forward, _decode, _training, _overhead, _neighbour):
            found += part(case, results)
    found += _scaling([r for case, rs in groups.items() if case.preset == "scaling" for r in rs])
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


def _forward(case: Case, results: list[Result]) -> Iterator[Outcome]:
    name = f"{case.preset} {case.label}"
    fp32 = _time(results, OURS, "fp32")
    best = fastest(r for r in results if r.engine != OURS and is_fp32(r.storage))
    if case in FORWARD and best is not None and best.median is not None:
        for storage, wanted in zip(("fp32", "int8"), FORWARD[case]):
            ours = _time(results, OURS, storage)
            if ours is not None:
                what = f"{name}: {storage} over FP32 of {best.engine}"
                yield Outcome(what, wanted, best.median / ours, True)
    if case in FORWARD:
        ggml, kv = _time(results, "ggml", "q8_0"), _time(results, OURS, "int8_kv")
        if kv is not None and fp32 is not None:
            yield Outcome(f"{name}: int8_kv over our fp32", 1.0, fp32 / kv, True)
        if kv is not None and ggml is not None:
            yield Outcome(f"{name}: int8_kv over Q8_0 of ggml", GGML_Q8, ggml / kv, True)


def _decode(case: Case, results: list[Result]) -> Iterator[Outcome]:
    best = fastest(r for r in results if r.engine != OURS)
    if case not in PRESETS["decode"] or best is None or best.median is None:
        return
    for storage, wanted in DECODE[case.keys].items():
        ours = _time(results, OURS, storage)
        if ours is not None:
            what = f"decode {case.label}: time of {storage} over {best.engine} {best.storage}"
            yield Outcome(what, wanted, ours / best.median, False)


def _training(case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case.kind != TRAINING:
        return
    name = f"training {case.label}"
    for storage, wanted in TRAIN.items():
        ours, theirs = _time(results, OURS, storage), _time(results, "torch", storage)
        if ours is not None and theirs is not None:
            yield Outcome(f"{name}: {storage} over torch {storage}", wanted, theirs / ours, True)
    fp32, kv = _time(results, OURS, "fp32"), _time(results, OURS, "int8_kv")
    if fp32 is not None and kv is not None:
        yield Outcome(f"{name}: int8_kv over our fp32", 1.0, fp32 / kv, True)


def _overhead(case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case not in PRESETS["overhead"]:
        return
    name, wanted = ("a decode call", DECODE_PLAN) if case.decode else ("a Python call", CALL)
    ours = _time(results, OURS, "fp32")
    if ours is not None:
        what = f"overhead {case.label}: {name}"
        yield Outcome(what, 1e6 * wanted, 1e6 * ours, False, "us")


def _neighbour(case: Case, results: list[Result]) -> Iterator[Outcome]:
    if case not in PRESETS["neighbour"]:
        return
    for result in results:
        if result.engine == OURS and result.storage == "fp32" and result.slowdown is not None:
            what = f"{case.label} fp32: slowdown with a busy neighbour"
            yield Outcome(what, NEIGHBOUR, result.slowdown, False)


def _scaling(results: list[Result]) -> Iterator[Outcome]:
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
            yield Outcome(what, SCALING, share, True)
