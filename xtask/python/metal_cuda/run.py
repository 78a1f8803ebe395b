"""Runs the Metal kernels on an NVIDIA GPU: `python -m metal_cuda.run BUNDLE RESULT [--parts …]`.

BUNDLE is what `cargo xtask metal-cuda --bundle` makes. RESULT is one JSON file, written anew after
each part:

    vectors    the conformance vectors, in three modes of arithmetic
    large      calls at sizes of real use, against float64
    rounding   quantizing and dequantizing of large tensors, to the bit
    sanitize   memcheck, racecheck and synccheck on calls that together have every feature of the
    texts
    barriers   each barrier removed in turn: does racecheck see it?

and one that only fills the folder of machine code: compile, for the vectors.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from . import large, large_list, replay, rounding, vectors
from .programs import MODES, Programs
from .records import Recording, load
from .replay import Outcome

PARTS = ("vectors", "large", "rounding", "sanitize", "barriers")


class Session:
    """What the parts share, and the result as it grows."""

    def __init__(
        self,
        bundle: Path,
        result: Path,
        cache: Path,
        make_device: Any,
        architecture: str,
        machine: dict[str, str],
        deadline: float,
    ) -> None:
        self.bundle, self.path = bundle, result
        self.programs = Programs(cache, architecture)
        self.make_device = make_device
        self.started = time.monotonic()
        self.deadline = self.started + deadline
        earlier = json.loads(result.read_text()) if result.exists() else {}
        self.spent = float(earlier.get("seconds", 0))
        self.result: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "machine": machine,
            "command": os.environ.get("METAL_CUDA_COMMAND", " ".join(sys.argv)),
            # A part to a process: one that loses the GPU's context does not take the others along.
            "parts": earlier.get("parts", {}),
        }

    def recording(self, name: str) -> Recording:
        return load(self.bundle / name)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def add(self, part: str, value: Any) -> None:
        self.result["parts"][part] = value
        self.result["seconds"] = round(self.spent + time.monotonic() - self.started, 1)
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def compile(self, recording: Recording, modes: tuple[str, ...]) -> bool:
        """Machine code for a recording's texts, counted in the result; false: there was no time."""
        texts = {recording.text(name) for name in recording.texts()}
        done = self.programs.compile(texts, modes, seconds=max(self.left(), 1))
        before = self.result["parts"].get(
            "compiled", {"programs": 0, "seconds": 0.0, "refused": {}}
        )
        self.add(
            "compiled",
            {
                "programs": before["programs"] + done.programs,
                "seconds": round(before["seconds"] + done.seconds, 1),
                "refused": {**before["refused"], **done.refused},
            },
        )
        print(
            f"{len(texts)} texts in {', '.join(modes)}: {done.programs} programs "
            f"in {done.seconds:.0f} s, {len(done.refused)} refused, {done.left} left",
            flush=True,
        )
        return done.left == 0


# MARK: Vectors


def kind(text: str) -> str:
    """The row of the table that a text counts in: its kernel, and how K and V are stored."""
    first, second = [*text.splitlines(), "", ""][:2]
    words = first.removeprefix("// ").split(", ")
    if len(words) < 4:
        return "quantization"
    kernel = words[0]
    if kernel == "forward":
        kernel = "prefill" if "keys a tile" in second else "decode"
    stored = {word.split()[0]: word.split()[1] for word in words[1:] if word[:2] in ("K ", "V ")}
    return f"{kernel}, K {stored.get('K', '?')}, V {stored.get('V', '?')}"


def run_vectors(session: Session, modes: tuple[str, ...] = tuple(MODES)) -> None:
    recording = session.recording("vectors")
    cases = vectors.reader(session.bundle / "repository").cases()
    rows: dict[str, Any] = {}
    kinds = {}
    for record in recording.records:
        texts = {launch.text for launch in record.launches}
        name = kind(recording.text(record.launches[0].text)) if texts else "nothing to launch"
        kinds[record.name] = name
        row = rows.setdefault(name, {"calls": 0, "texts": set(), "modes": {}})
        row["calls"] += 1
        row["texts"] |= texts
    result: dict[str, Any] = {
        "calls": len(recording.records),
        "launches": sum(len(r.launches) for r in recording.records),
        "texts": len(recording.texts()),
        "problems": {},
    }
    for mode in modes:
        if session.left() < 20 or not session.compile(recording, (mode,)):
            print(f"vectors, {mode}: no time was left", flush=True)
            continue
        device = session.make_device(session.programs, mode)
        problems = []
        for record in recording.records:
            outcome = attempt(
                record.name, replay.vector, device, recording, record, cases[record.call]
            )
            one = rows[kinds[record.name]]["modes"].setdefault(
                mode, {"failed": 0, "ratio": 0.0, "worst": ""}
            )
            one["failed"] += bool(outcome.problems)
            if outcome.ratio > one["ratio"]:
                one["ratio"], one["worst"] = round(outcome.ratio, 4), record.name
            problems += [f"{record.name}: {problem}" for problem in outcome.problems[:1]]
        result["problems"][mode] = problems
        result["rows"] = {
            name: {**row, "texts": len(row["texts"])} for name, row in sorted(rows.items())
        }
        session.add("vectors", result)
        print(
            f"vectors, {mode}: {len(recording.records)} calls, {len(problems)} with problems",
            flush=True,
        )
        for problem in problems[:12]:
            print(f"  {problem}", flush=True)


def compile_vectors(session: Session) -> None:
    """The vectors' machine code, mode after mode: while other parts have the GPU."""
    for mode in MODES:
        session.compile(session.recording("vectors"), (mode,))


def attempt(name: str, body: Any, *arguments: Any) -> Outcome:
    """A call that cannot be run is a problem, not the end."""
    try:
        return body(*arguments)
    except Exception as error:
        if "illegal" in str(error).lower() or "launch failed" in str(error).lower():
            raise  # the GPU's context is lost
        return Outcome(name, [f"{type(error).__name__}: {error}"])


# MARK: Large calls


def run_large(
    session: Session, calls: list[large.Call] | None = None, modes: tuple[str, ...] = tuple(MODES)
) -> None:
    recording = session.recording("large")
    session.compile(recording, modes)
    by_call = defaultdict(list)
    for record in recording.records:
        by_call[record.call].append(record)
    devices = {mode: session.make_device(session.programs, mode) for mode in modes}
    rows = []
    for call in calls or large_list.calls():
        if session.left() < 20:
            rows.append({"name": call.name, "skipped": "no time was left"})
            continue
        started = time.monotonic()
        xp = devices[modes[0]].xp
        try:
            problem = large.problem(xp, call)
            bounds = problem.bounds(xp)
        except Exception as error:
            why = f"no reference: {type(error).__name__}: {error}"
            rows.append({"name": call.name, "skipped": why})
            print(f"{call.name}: {why}", flush=True)
            continue
        referenced = time.monotonic()
        row: dict[str, Any] = {
            "name": call.name,
            "stored": stored(call),
            "size": size(call),
            "modes": {},
        }
        for mode in modes:
            outcome = attempt(
                call.name,
                replay.large_call,
                devices[mode],
                recording,
                by_call[call.name],
                problem,
                bounds,
            )
            row["modes"][mode] = {
                "ratio": round(outcome.ratio, 4),
                "problems": outcome.problems,
                "results": outcome.results,
            }
        seconds = [referenced - started, time.monotonic() - referenced]
        row["seconds"] = {"reference": round(seconds[0], 2), "kernels": round(seconds[1], 2)}
        rows.append(row)
        shown = ", ".join(f"{mode} {row['modes'][mode]['ratio']:.2f}" for mode in modes)
        print(
            f"{call.name}: error over allowed: {shown} ({seconds[0]:.1f} s, {seconds[1]:.1f} s)",
            flush=True,
        )
        for mode in modes:
            for problem_text in row["modes"][mode]["problems"]:
                print(f"  {mode}: {problem_text}", flush=True)
        session.add("large", {"rows": rows})
        session.make_device.release()
    session.add("large", {"rows": rows})


def stored(call: large.Call) -> str:
    return f"Q {call.query.name}, K {call.key.name}, V {call.value.name}"


def size(call: large.Call) -> str:
    heads = f"{call.heads}" if call.heads == call.key_heads else f"{call.heads}/{call.key_heads}"
    columns = (
        f"{call.columns}" if not call.value_columns else f"{call.columns} and {call.value_columns}"
    )
    return f"{call.batches} x {heads} heads, {call.rows} x {call.keys}, D {columns}"


def run_rounding(
    session: Session,
    calls: list[rounding.Call] | None = None,
    modes: tuple[str, ...] = tuple(MODES),
) -> None:
    recording = session.recording("rounding")
    session.compile(recording, modes)
    devices = {mode: session.make_device(session.programs, mode) for mode in modes}
    rows = []
    for call in calls or rounding.calls():
        data = rounding.rounded(devices[modes[0]].xp, call)
        for record in (r for r in recording.records if r.call == call.name):
            row: dict[str, Any] = {"name": record.name, "shape": list(call.shape), "modes": {}}
            for mode in modes:
                outcome = attempt(
                    record.name, replay.rounding_call, devices[mode], recording, record, call, data
                )
                row["modes"][mode] = {"problems": outcome.problems, "results": outcome.results}
            rows.append(row)
            for mode in modes:
                for problem in row["modes"][mode]["problems"]:
                    print(f"{record.name}, {mode}: {problem}", flush=True)
        session.make_device.release()
    print(f"rounding: {len(rows)} calls", flush=True)
    session.add("rounding", {"rows": rows})


def main() -> int:
    from . import gpu, removals, sanitize

    parser = argparse.ArgumentParser(prog="metal_cuda.run", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument(
        "--cache", type=Path, default=Path("/tmp/metal-cuda"), help="where machine code is kept"
    )
    parser.add_argument(
        "--seconds", type=float, default=400, help="after which nothing new is begun"
    )
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    unknown = set(parts) - {"compile", *PARTS}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    architecture = gpu.architecture()
    session = Session(
        arguments.bundle,
        arguments.result,
        arguments.cache / "code",
        gpu.make_device,
        architecture,
        gpu.machine(),
        arguments.seconds,
    )
    bodies = {
        "compile": compile_vectors,
        "large": run_large,
        "rounding": run_rounding,
        "vectors": run_vectors,
        "sanitize": sanitize.run,
        "barriers": removals.run,
    }
    for part in sorted(parts, key=list(bodies).index):
        bodies[part](session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
