"""Measures cases: one process for each library, round by round, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umfa.bench import cases
from umfa.bench.cases import Case
from umfa.bench.engines import OURS
from umfa.bench.modes import MODES, RULERS, base
from umfa.bench.process import PeerFailed, Worker
from umfa.bench.quiet import BackgroundLoad, Quiet

# What a preset is about, where that is not every format.
FORMATS: dict[str, tuple[str, ...]] = {
    "scaling": ("fp32", "int8"),
    "overhead": ("fp32", "int8_kv"),
    "neighbour": ("fp32", "int8"),
    "memory": ("fp32", "int8", "int8_kv"),
}
# Libraries' threads spin for a while after a call, and would take a processor from the next.
SETTLE = 0.01
# No round is shorter than this for one contestant, and no call that is longer needs a warm-up.
SLOT = 0.02
LONG_CALL = 0.25
ROUNDS_LEAST = 3


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    threads: int = 2
    # Per contestant and case, in all rounds together.
    seconds: float = 0.8
    rounds: int = 7
    # Per case: longer ones get fewer rounds.
    case_seconds: float = 30.0
    # A call that takes longer is measured once.
    slow_call: float = 8.0
    # The most that any answer of a worker may take.
    timeout: float = 180.0
    seed: int = 0
    neighbour: bool = False
    modes: tuple[str, ...] = ()


@dataclass
class Result:
    """What one library needed for one case in one format, in seconds."""

    case: Case
    engine: str
    storage: str
    # Relative RMSE against float64 attention on the operands before they were rounded.
    error: float | None = None
    median: float | None = None
    minimum: float | None = None
    calls: int = 0
    rounds: list[float] = field(default_factory=list)
    # The same with a busy neighbour.
    neighbour_rounds: list[float] = field(default_factory=list)
    refused: str | None = None
    # Of all that a call reads and writes, each once; None for peers.
    bytes: int | None = None

    @property
    def slowdown(self) -> float | None:
        """Median with a neighbour over median without."""
        if not self.neighbour_rounds or not self.median:
            return None
        return statistics.median(self.neighbour_rounds) / self.median

    @staticmethod
    def from_json(data: dict[str, Any]) -> Result:
        """The reverse of `dataclasses.asdict`."""
        return Result(**{**data, "case": Case(**data["case"])})


class InterleavedRun:
    """The libraries of a run, each in a process that lives as long as it behaves."""

    def __init__(self, peers: Sequence[tuple[str, Path | None]], settings: Settings) -> None:
        self.settings = settings
        self.versions: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self._workers: dict[str, Worker] = {}
        self._where = {OURS: None, **dict(peers)}
        for engine in self._where:
            self._start(engine)

    def _start(self, engine: str) -> None:
        try:
            worker = Worker(engine, self.settings.threads, self._where[engine])
        except (OSError, PeerFailed) as error:
            self.absent[engine] = str(error)
            return
        self.versions[engine] = worker.version
        self._workers[engine] = worker

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers.values():
            worker.close()

    def __enter__(self) -> InterleavedRun:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def measure(self, case: Case, quiet: Quiet, say: Callable[[str], None]) -> list[Result]:
        """All libraries and formats on one case."""
        results: list[Result] = []
        cost: dict[tuple[str, str], float] = {}
        for engine, storage in self._contestants(case):
            say(f"preparing {engine} {storage}")
            result, seconds = self._prepare(case, engine, storage)
            results.append(result)
            if seconds is not None:
                cost[engine, storage] = seconds
        ready = [r for r in results if (r.engine, r.storage) in cost]
        neighbour = self.settings.neighbour or case.preset == "neighbour"
        rounds, slots = plan(list(cost.values()), self.settings, neighbour)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            quiet.wait()
            self._round(ready, slots, say)
            if neighbour:
                with BackgroundLoad():
                    self._round(ready, slots, say, neighbour=True)
        for result in ready:
            if result.rounds:
                result.median = statistics.median(result.rounds)
        self._drop()
        return results

    def _contestants(self, case: Case) -> Iterator[tuple[str, str]]:
        for engine in list(self._workers):
            if case.preset == cases.FORMATS_PRESET and engine != OURS:
                continue
            try:
                answer = self._ask(engine, {"do": "formats", "case": case.to_json()})
            except PeerFailed:
                continue
            for storage in answer["formats"]:
                if self._chosen(case, engine, storage):
                    yield engine, storage

    def _chosen(self, case: Case, engine: str, storage: str) -> bool:
        if storage in RULERS:
            return True
        modes, wanted = self.settings.modes, FORMATS.get(case.preset)
        if engine != OURS:
            return not wanted or storage in wanted
        if case.preset == cases.SHAPE_PRESET:
            modes = modes or tuple(MODES)
        if modes:
            # Presets with formats of their own are not about quantizing.
            return (storage if wanted else base(storage)) in modes
        return not wanted or storage in wanted

    def _prepare(self, case: Case, engine: str, storage: str) -> tuple[Result, float | None]:
        result = Result(case, engine, storage)
        request = {
            "do": "prepare",
            "case": case.to_json(),
            "format": storage,
            "seed": self.settings.seed,
        }
        try:
            answer = self._ask(engine, request)
        except PeerFailed as error:
            result.refused = str(error)
            return result, None
        result.refused, result.error = answer.get("refused"), answer.get("error")
        result.bytes = answer.get("bytes")
        seconds = answer.get("seconds")
        if seconds is not None and seconds > self.settings.slow_call:
            # One call has been timed already: more would cost minutes and change little.
            result.median = result.minimum = seconds
            result.rounds, result.calls = [seconds], 1
            return result, None
        return result, seconds

    def _round(
        self,
        ready: list[Result],
        slots: list[float],
        say: Callable[[str], None],
        neighbour: bool = False,
    ) -> None:
        for result, slot in zip(ready, slots):
            if result.refused:
                continue
            request = {"do": "run", "format": result.storage, "seconds": slot, "calls": 1}
            try:
                answer = self._ask(result.engine, request)
            except PeerFailed as error:
                result.refused = str(error)
                say(result.refused)
                continue
            if neighbour:
                result.neighbour_rounds.append(answer["median"])
            else:
                result.rounds.append(answer["median"])
                result.calls += answer["calls"]
                least = answer["minimum"]
                result.minimum = min(least, least if result.minimum is None else result.minimum)
            time.sleep(SETTLE)

    def _ask(self, engine: str, request: dict[str, Any]) -> dict[str, Any]:
        """Asks; a process that is gone afterwards is started again, without what it held."""
        worker = self._workers.get(engine)
        if worker is None:
            raise PeerFailed(f"{engine} could not be started again")
        try:
            return worker.ask(request, self.settings.timeout)
        except PeerFailed:
            if not worker.alive:
                del self._workers[engine]
                self._start(engine)
            raise

    def _drop(self) -> None:
        for engine in list(self._workers):
            try:
                self._ask(engine, {"do": "drop"})
            except PeerFailed:
                continue


def plan(costs: list[float], settings: Settings, neighbour: bool) -> tuple[int, list[float]]:
    """How many rounds, and how many seconds each contestant gets in one (0: a single call)."""
    if not costs:
        return 0, []
    slots = [
        0.0 if cost > LONG_CALL else max(settings.seconds / settings.rounds, SLOT) for cost in costs
    ]
    once = sum(slot + max(cost, SETTLE) for slot, cost in zip(slots, costs))
    if neighbour:
        once *= 3
    rounds = min(settings.rounds, max(ROUNDS_LEAST, int(settings.case_seconds / once)))
    return rounds, slots
