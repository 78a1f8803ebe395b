"""One run of the benchmark: cases one after the other, into a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import umfa
from umfa.bench import accuracy, ceilings, demo, memory, record
from umfa.bench.cases import DEMO_PRESET, Case
from umfa.bench.quiet import Quiet
from umfa.bench.record import Record
from umfa.bench.runner import InterleavedRun, Result, Settings


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    cases: Sequence[Case]
    peers: Sequence[tuple[str, Path | None]]
    settings: Settings
    # Seconds that may be spent waiting for a quiet machine.
    patience: float = 60.0
    ceilings: Path | None = None


@dataclass(frozen=True)
class Listener:
    """What a caller wants to hear while a run goes on."""

    # A case begins; a step of it; its results; a wait for a quiet machine, of so many seconds.
    begin: Callable[[Case], None]
    step: Callable[[str], None]
    done: Callable[[Case, Sequence[Result], Record], None]
    waiting: Callable[[float], None] = lambda _: None


def run(plan: Plan, listener: Listener) -> Record:
    """Measures everything. An interrupt ends the run early and keeps what was measured."""
    found = Record(
        results=[],
        date=record.now(),
        commit=record.commit(),
        command=record.command(),
        machine=record.machine(instruction_set()),
        settings=asdict(plan.settings),
    )
    if plan.ceilings is not None:
        found.ceilings = ceilings.read(plan.ceilings, plan.settings.threads)[1]
    quiet = Quiet(plan.patience, listener.waiting)
    found.noise = quiet.to_json()
    try:
        with InterleavedRun(plan.peers, plan.settings) as contest:
            found.versions, found.absent = contest.versions, contest.absent
            for case in plan.cases:
                listener.begin(case)
                results: list[Result] = []
                if case.preset == "memory":
                    found.memory += memory.measure(case, plan.peers, plan.settings, listener.step)
                elif case.preset == "accuracy":
                    shapes = (case.q_shape, case.k_shape, case.v_shape)
                    seed = plan.settings.seed
                    found.accuracy += accuracy.measure_all(shapes, "qkv", seed, listener.step)
                elif case.preset == DEMO_PRESET:
                    try:
                        found.demo += demo.measure(case, plan.settings, listener.step)
                    except demo.DemoFailed as error:
                        found.absent["umfa demo"] = str(error)
                else:
                    results = contest.measure(case, quiet, listener.step)
                    found.results += results
                found.noise = quiet.to_json()
                listener.done(case, results, found)
    except KeyboardInterrupt:
        listener.step("interrupted")
    return found


def instruction_set() -> str:
    """The one that umfa's kernels use here."""
    one: Any = np.zeros((1, 1, 1, 1), np.float32)
    lines = umfa.explain(one, one, one).splitlines()
    plan = dict(line.split(": ", 1) for line in lines if ": " in line)
    return plan.get("isa", "")
