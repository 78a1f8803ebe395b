"""NVIDIA's compute-sanitizer over small calls, and over texts from which a barrier was removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import barriers as of_text
from . import nvrtc
from .programs import MODES, Program, Programs
from .records import Record, Recording
from .run import Session

TOOLS = ("memcheck", "racecheck", "synccheck")
# A process loads CUDA and Python under the sanitizer: some seconds before its first call.
SHARDS = 5
MUTATIONS_A_PROCESS = 4
TRIES = 3


@dataclass(frozen=True)
class Finding:
    output: str
    errors: int | None
    """As the sanitizer counts them; None: it did not come to its end."""


def sanitizer() -> str:
    found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(found).exists():
        raise FileNotFoundError("compute-sanitizer is not installed")
    return found


def checked(
    tool: str, session: Session, jobs: list[dict[str, Any]], folder: Path, cache: Path, limit: float
) -> Finding:
    """Runs calls in a process under a tool."""
    handle, name = tempfile.mkstemp(suffix=".json", dir=folder)
    with os.fdopen(handle, "w") as file:
        json.dump(jobs, file)
    command = [
        sanitizer(),
        "--tool",
        tool,
        "--print-limit",
        "2000",
        sys.executable,
        "-m",
        "metal_cuda.worker",
        str(session.bundle),
        name,
        str(cache),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        ),
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=max(limit, 1),
            check=False,
            env=environment,
        )
        output = ended.stdout + ended.stderr
    except subprocess.TimeoutExpired as late:
        parts = [
            x.decode() if isinstance(x, bytes) else x or "" for x in (late.stdout, late.stderr)
        ]
        return Finding("".join(parts) + "\nno end within the limit", None)
    if f"{len(jobs)} calls done" not in output:
        return Finding(output, None)
    counts = re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", output)
    return Finding(output, sum(map(int, counts)) if counts else None)


def _job(recording: str, record: Record, replaced: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"recording": recording, "record": record.name, "replaced": replaced or {}}


def small_calls(session: Session) -> list[tuple[str, Record]]:
    """All calls of the recording "checked", and of the vectors those that round."""
    jobs = [("checked", record) for record in session.recording("checked").records]
    rounds = ("quantize", "dequantize")
    jobs += [
        ("vectors", record)
        for record in session.recording("vectors").records
        if record.operation in rounds
    ]
    return jobs


def _code(session: Session, names: list[str], lines: Path) -> Programs:
    programs = Programs(lines, session.programs.architecture)
    texts = []
    for name in names:
        recording = session.recording(name)
        wanted = {
            launch.text
            for kind, record in small_calls(session)
            if kind == name
            for launch in record.launches
        }
        texts += [recording.text(text) for text in sorted(wanted)]
    done = programs.compile(texts, ("safe",), lines=True)
    print(
        f"{done.programs} programs with line numbers in {done.seconds:.0f} s, "
        f"{len(done.refused)} refused",
        flush=True,
    )
    return programs


def run(session: Session) -> None:
    lines = session.programs.folder.parent / "lines"
    _code(session, ["checked", "vectors"], lines)
    calls = small_calls(session)
    result: dict[str, Any] = {
        "calls": len(calls),
        "launches": sum(len(r.launches) for _, r in calls),
        "tools": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        shards = [[_job(*call) for call in calls[n::SHARDS]] for n in range(SHARDS)]
        with ThreadPoolExecutor(SHARDS * len(TOOLS)) as pool:
            waiting = {
                tool: [
                    pool.submit(
                        checked, tool, session, shard, Path(temporary), lines, session.left()
                    )
                    for shard in shards
                ]
                for tool in TOOLS
            }
            for tool, shards_of in waiting.items():
                findings = [one.result() for one in shards_of]
                unfinished = [f.output[-1500:] for f in findings if f.errors is None]
                errors = sum(f.errors or 0 for f in findings)
                result["tools"][tool] = {
                    "errors": errors,
                    "unfinished": unfinished,
                    "reports": [_reports(f.output) for f in findings if f.errors],
                }
                print(
                    f"{tool}: {errors} errors, {len(unfinished)} of {SHARDS} processes did not end",
                    flush=True,
                )
                for text in unfinished[:1]:
                    print(text, flush=True)
                session.add("sanitize", result)


def _reports(output: str) -> list[str]:
    """The lines of a sanitizer's reports."""
    return [line for line in output.splitlines() if line.startswith("=========")][:40]


# MARK: Barriers


@dataclass(frozen=True)
class Mutation:
    """A text without one of its barriers, run by a call."""

    barrier: of_text.Barrier
    recording: str
    record: Record
    text: str
    entry: str
    name: str
    """Of the kernel with the barrier removed: unique, as reports name it."""


def sites(session: Session) -> dict[tuple[Any, ...], list[Mutation]]:
    """The places of barriers, each with calls that can tell whether it is needed."""
    found: dict[tuple[Any, ...], list[Mutation]] = {}
    recordings: dict[str, Recording] = {
        name: session.recording(name) for name in ("checked", "vectors")
    }
    for name, record in small_calls(session):
        for text in dict.fromkeys(launch.text for launch in record.launches):
            entries = list(dict.fromkeys(x.entry for x in record.launches if x.text == text))
            seen: dict[tuple[Any, ...], int] = {}
            for barrier in of_text.barriers(recordings[name].text(text)):
                place = (barrier.kernel, *barrier.around)
                seen[place] = seen.get(place, 0) + 1
                tries = found.setdefault((*place, seen[place]), [])
                for entry in entries:
                    if reaches(entry, barrier, record):
                        number = sum(map(len, found.values()))
                        tries.append(
                            Mutation(
                                barrier, name, record, text, entry, f"{entry}_without_{number:05d}"
                            )
                        )
    return {place: _spread(tries) for place, tries in found.items() if tries}


def reaches(entry: str, barrier: of_text.Barrier, record: Record) -> bool:
    """Whether a kernel of a library comes to a barrier, in its body or in a rotation."""
    if entry.startswith("attention_"):
        return True
    if barrier.kernel in ("rotate", "prepare"):
        return "rotated" in record.name and entry in (
            "quantize_round",
            "quantize_group_parameters",
            "dequantize",
        )
    rotates = any("rotation" in line or "rotate" in line for line in barrier.around)
    return entry == barrier.kernel and (not rotates or "rotated" in record.name)


def _spread(tries: list[Mutation]) -> list[Mutation]:
    """A few of the calls, from all over the list."""
    if len(tries) <= TRIES:
        return tries
    return [tries[len(tries) * n // TRIES] for n in range(TRIES)]


def _mutant(session: Session, mutation: Mutation, folder: Path) -> Path:
    text = of_text.without(
        session.recording(mutation.recording).text(mutation.text), mutation.barrier.index
    )
    program: Program = Programs(folder, session.programs.architecture).program(text)
    source = re.sub(rf"\b{mutation.entry}\(", f"{mutation.name}(", program.source)
    code, _ = nvrtc.build(
        source,
        session.programs.architecture,
        (*MODES["safe"], "--diag-suppress=177,550", *program.options, "-lineinfo"),
    )
    path = folder / f"{mutation.name}.cubin"
    path.write_bytes(code)
    return path


def run_barriers(session: Session) -> None:
    lines = session.programs.folder.parent / "lines"
    _code(session, ["checked", "vectors"], lines)
    places = sites(session)
    removed = [mutation for tries in places.values() for mutation in tries]
    print(f"{len(places)} places of barriers, {len(removed)} removals", flush=True)
    reported: dict[str, bool | None] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def check(some: list[Mutation]) -> None:
            jobs = []
            for one in some:
                replaced = {
                    one.text: {
                        "replaces": one.entry,
                        "code": str(_mutant(session, one, folder)),
                        "entry": one.name,
                    }
                }
                jobs.append(_job(one.recording, one.record, replaced))
            found = checked("racecheck", session, jobs, folder, lines, session.left())
            for one in some:
                seen = re.search(rf"\b{one.name}\b", found.output) is not None
                reported[one.name] = seen if seen or found.errors is not None else None

        # NVRTC works without Python's lock: threads are enough.
        groups = [
            removed[at : at + MUTATIONS_A_PROCESS]
            for at in range(0, len(removed), MUTATIONS_A_PROCESS)
        ]
        with ThreadPoolExecutor(max(len(os.sched_getaffinity(0)) - 2, 1)) as pool:
            for _ in pool.map(check, [group for group in groups if session.left() > 0]):
                pass
    rows = []
    for place, tries in places.items():
        outcomes = [reported.get(one.name) for one in tries]
        rows.append(
            {
                "kernel": place[0],
                "barrier": place[1],
                "around": list(place[2:-1]),
                "line": tries[0].barrier.line,
                "removals": len(tries),
                "calls": [one.record.name for one in tries],
                "outcome": "reported"
                if True in outcomes
                else "not run"
                if None in outcomes
                else "not reported",
            }
        )
    count = {
        what: sum(row["outcome"] == what for row in rows)
        for what in ("reported", "not reported", "not run")
    }
    session.add("barriers", {"places": len(rows), **count, "rows": rows})
    print(f"barriers: {count}", flush=True)
    # Those that were not run are in the result only.
    for row in rows:
        if row["outcome"] == "not reported":
            print(f"  not reported: {row['kernel']}: {row['around']} {row['calls']}", flush=True)
