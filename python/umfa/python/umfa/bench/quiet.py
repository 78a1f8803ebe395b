"""Is the machine busy with something else? And a neighbour that keeps it busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

STAT = Path("/proc/stat")
# Busy for others: more than this part of one processor. Slower than its best: by more than this.
BUSY, SLOWER = 0.15, 1.25
WINDOW, PAUSE = 0.1, 0.5


class Quiet:
    """Waits for a quiet machine, `patience` seconds in all, and tells how that went.

    `say` is called before the first wait, with the seconds that it may take.
    """

    def __init__(self, patience: float, say: Callable[[float], None] = lambda _: None) -> None:
        self.patience = self._left = patience
        self._say = say
        # Not a matrix product: the threads of a BLAS spin afterwards, beside the first contestant.
        self._numbers = np.linspace(1.0, 2.0, 1 << 16)
        self._best = float("inf")
        self.waited = 0.0
        self.rounds = self.busy_rounds = 0
        self._calibrate()

    def wait(self) -> None:
        """Call this before each round, while nothing of the caller's is running."""
        self.rounds += 1
        start = time.monotonic()
        while not self._is_quiet():
            if self._left <= 0:
                self.busy_rounds += 1
                return
            if not self.waited:
                self._say(self._left)
            time.sleep(min(PAUSE, self._left))
            now = time.monotonic()
            self._left -= now - start
            self.waited += now - start
            start = now

    def to_json(self) -> dict[str, float]:
        """How busy the machine was, for a record."""
        return {
            "rounds": self.rounds,
            "busy_rounds": self.busy_rounds,
            "waited": round(self.waited, 1),
            "patience": self.patience,
        }

    def _is_quiet(self) -> bool:
        return _others() < BUSY and self._calibrate() < SLOWER

    def _calibrate(self) -> float:
        """Time of a fixed piece of work, relative to the best so far."""
        took = []
        for _ in range(5):
            start = time.perf_counter()
            np.exp(self._numbers)
            took.append(time.perf_counter() - start)
        self._best = min(self._best, *took)
        return min(took) / self._best


def _others() -> float:
    """Processors that are busy while this process sleeps; 0 where the system does not tell."""
    if not STAT.exists():
        return 0.0
    before = _ticks()
    time.sleep(WINDOW)
    after = _ticks()
    total = sum(after) - sum(before)
    # Idle, and waiting for a disk.
    idle = after[3] + after[4] - before[3] - before[4]
    return (total - idle) / max(total, 1) * (os.cpu_count() or 1)


def _ticks() -> list[int]:
    # The columns after the eighth are counted in the first two as well.
    return [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:9]]


class BackgroundLoad:
    """Another process that keeps one processor busy while the `with` block runs."""

    def __enter__(self) -> BackgroundLoad:
        self._process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
        if hasattr(os, "sched_setaffinity"):
            first = min(os.sched_getaffinity(0))
            os.sched_setaffinity(self._process.pid, {first})
        time.sleep(0.05)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
