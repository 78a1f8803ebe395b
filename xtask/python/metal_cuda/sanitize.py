"""NVIDIA's compute-sanitizer over small calls."""

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

from .programs import Programs
from .records import Record
from .run import Session

TOOLS = ("memcheck", "racecheck", "synccheck")
# A process loads CUDA and Python under the sanitizer: some seconds before its first call.
SHARDS = 5


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


def job_of(
    recording: str, record: Record, replaced: dict[str, Any] | None = None
) -> dict[str, Any]:
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


def code(session: Session, names: list[str], lines: Path) -> Programs:
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
    code(session, ["checked", "vectors"], lines)
    calls = small_calls(session)
    result: dict[str, Any] = {
        "calls": len(calls),
        "launches": sum(len(r.launches) for _, r in calls),
        "tools": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        shards = [[job_of(*call) for call in calls[n::SHARDS]] for n in range(SHARDS)]
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
