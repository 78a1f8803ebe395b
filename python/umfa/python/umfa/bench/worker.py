"""The process that runs one library: requests come as JSON lines on stdin, answers go to stdout.

| request | answer |
| --- | --- |
| `{"do": "hello"}` | `version`, `python` |
| `{"do": "formats", "case"}` | `formats` |
| `{"do": "prepare", "case", "format", "seed"}` | `seconds` of a call, `error`, `bytes`, `refused` |
| `{"do": "run", "format", "seconds", "calls"}` | `calls`, `median`, `minimum` in seconds |
| `{"do": "memory", "case", "format", "seed", "masked"}` | bytes `growth`, `output`, `workspace` |
| `{"do": "drop"}` | frees what was prepared |

A request that fails is answered with `failed`, a message. The end of stdin ends the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from umfa.bench import engines, reference
from umfa.bench.cases import Case, case

LONG_CALL = 1.0


def main() -> None:
    """Serves requests until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=engines.ENGINES)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--library")
    options = parser.parse_args()
    answers = _own_stdout()
    _keep_to(options.threads)
    try:
        worker = Worker(engines.load(options.engine, options.threads, options.library))
    except Exception as error:
        _answer(answers, {"failed": _sentence(error)})
        return
    for line in sys.stdin:
        try:
            _answer(answers, worker.serve(json.loads(line)))
        except Exception as error:
            _answer(answers, {"failed": _sentence(error)})


class Worker:
    """One library, the operands of one case, and the calls that are ready on it."""

    def __init__(self, engine: engines.Engine) -> None:
        self._engine = engine
        self._case: Case | None = None
        self._given: reference.Operands | None = None
        self._reference: reference.Exact | None = None
        self._calls: dict[str, engines.Prepared] = {}

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        action = request.pop("do")
        if action == "hello":
            return {"version": self._engine.version, "python": platform.python_version()}
        if action == "run":
            return self._run(request["format"], request["seconds"], request["calls"])
        if action == "drop":
            self._drop()
            return {}
        wanted = Case(**request["case"])
        if action == "formats":
            return {"formats": list(self._engine.formats(wanted))}
        if action == "prepare":
            return self._prepare(wanted, request["format"], request["seed"])
        if action == "memory":
            return self._memory(wanted, request["format"], request["seed"], request["masked"])
        raise ValueError(f'no request "{action}"')

    def _prepare(self, wanted: Case, storage: str, seed: int) -> dict[str, Any]:
        if wanted != self._case:
            self._drop()
            self._case, self._given = wanted, reference.operands(wanted, seed)
            self._reference = reference.exact(wanted, self._given)
        if self._given is None or self._reference is None:
            raise ValueError("operands have been dropped")
        try:
            prepared = self._engine.prepare(wanted, storage, self._given, None)
        except engines.Refused as reason:
            return {"refused": str(reason)}
        seconds = _seconds(prepared)
        error = None
        if prepared.output is not None:
            error = self._reference.error(prepared.output())
        # The first call may compile and allocate, which matters where a call is short.
        if seconds < LONG_CALL:
            seconds = _seconds(prepared)
        self._calls[storage] = prepared
        if error is not None and not np.isfinite(error):
            error = None
        return {"seconds": seconds, "error": error, "bytes": prepared.bytes}

    def _run(self, storage: str, seconds: float, calls: int) -> dict[str, Any]:
        """At least `calls` calls, for about `seconds`, after one that is not counted."""
        parts = self._calls[storage].parts
        run, clock = self._calls[storage].run, time.perf_counter
        gc.disable()
        try:
            if seconds > 0:
                run()
            took: list[float] = []
            end = clock() + seconds
            while len(took) < calls or clock() < end:
                start = clock()
                run()
                took.append(clock() - start)
        finally:
            gc.enable()
        median, minimum = statistics.median(took) / parts, min(took) / parts
        return {"calls": len(took), "median": median, "minimum": minimum}

    def _memory(self, wanted: Case, storage: str, seed: int, masked: bool) -> dict[str, Any]:
        """How much the peak of this process grows in the first call on a case.

        A tiny case runs before it, so that code and threads are there.
        """
        tiny = case("memory", 1, wanted.heads, 16, wanted.columns, kv_heads=wanted.kv_heads)
        for small in (tiny, wanted):
            given = reference.operands(small, seed)
            mask = None
            if masked:
                # No row or column is alike, and every row sees its own key.
                mask = np.tri(small.rows, small.keys, dtype=bool)
                mask[:, :: max(small.keys // 64, 1)] = True
            try:
                prepared = self._engine.prepare(small, storage, given, mask)
            except engines.Refused as reason:
                return {"refused": str(reason)}
            gc.collect()
            before = _reset_peak()
            prepared.run()
            growth = _peak() - before
        output = 4 * int(np.prod(wanted.out_shape))
        return {"growth": growth, "output": output, "workspace": prepared.workspace}

    def _drop(self) -> None:
        self._case = self._given = self._reference = None
        self._calls.clear()
        gc.collect()


def _keep_to(threads: int) -> None:
    """Libraries that take every processor of the process get as many as there are threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _seconds(prepared: engines.Prepared) -> float:
    start = time.perf_counter()
    prepared.run()
    return time.perf_counter() - start


def _own_stdout() -> TextIO:
    """The pipe to the parent. Whatever a library prints goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise ValueError(f"{STATUS} has no line {name}")


def _reset_peak() -> int:
    """Makes the peak what is resident now, and returns that."""
    if not CLEAR.exists():
        raise ValueError("peak memory is measured through the proc file system of Linux")
    CLEAR.write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


if __name__ == "__main__":
    main()
