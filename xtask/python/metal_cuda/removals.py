"""Each barrier of the texts removed in turn: does racecheck see it?

One removal to a process: a hazard that is reported is then its own, whatever place it is put down
to. (The sanitizer names the function that was inlined, as simdgroup_store of the header, and not
the kernel; and it stops recording hazards of a process when there are many.)
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import barriers as of_text
from . import nvrtc
from .programs import MODES, Programs
from .records import Record, Recording
from .run import Session
from .sanitize import checked, code, job_of, small_calls

# Calls in which a barrier is removed, one after the other until one of them tells.
TRIES = 8
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Mutation:
    """A text without some of its barriers, run by a call."""

    barrier: of_text.Barrier
    """The one in question."""
    recording: str
    record: Record
    text: str
    entry: str
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    hazards: int | None
    """None: the run did not come to its end."""
    report: str = ""
    """The first that was reported."""


def sites(session: Session) -> dict[Place, list[Mutation]]:
    """The places of barriers, each with calls that can tell whether it is needed."""
    found: dict[Place, list[Mutation]] = {}
    recordings: dict[str, Recording] = {
        name: session.recording(name) for name in ("checked", "vectors")
    }
    for name, record in small_calls(session):
        launches = [launch for launch in record.launches if 0 not in launch.grid]
        for text in dict.fromkeys(launch.text for launch in launches):
            entries = list(dict.fromkeys(x.entry for x in launches if x.text == text))
            for place, barrier in places(recordings[name].text(text)):
                tries = found.setdefault(place, [])
                for entry in entries:
                    if reaches(entry, barrier, record):
                        tries.append(Mutation(barrier, name, record, text, entry, (barrier.index,)))
    return {place: spread(tries) for place, tries in found.items() if tries}


def places(text: str) -> list[tuple[Place, of_text.Barrier]]:
    """The barriers of a text; a place that it has several times counts as several."""
    seen: dict[Place, int] = {}
    result = []
    for barrier in of_text.barriers(text):
        place = (barrier.kernel, *barrier.around)
        seen[place] = seen.get(place, 0) + 1
        result.append(((*place, seen[place]), barrier))
    return result


def reaches(entry: str, barrier: of_text.Barrier, record: Record) -> bool:
    """Whether a kernel of a library comes to a barrier, in its body or in a rotation."""
    if entry.startswith("attention_"):
        return True
    reads = ("quantize_range", "quantize_group_parameters", "quantize_round")
    if barrier.kernel in ("rotate", "prepare"):
        callers = reads if barrier.kernel == "prepare" else (*reads, "dequantize")
        return "rotated" in record.name and entry in callers
    rotates = any("rotation" in line or "rotate" in line for line in barrier.around)
    return entry == barrier.kernel and (not rotates or "rotated" in record.name)


def spread(tries: list[Mutation], most: int = TRIES) -> list[Mutation]:
    """A few of the calls, from all over the list; of kernels that share a place, each in turn."""
    by_entry: dict[str, list[Mutation]] = {}
    for one in tries:
        by_entry.setdefault(one.entry, []).append(one)
    chosen = []
    for some in by_entry.values():
        count = min(len(some), most)
        chosen.append([some[len(some) * n // count] for n in range(count)])
    turns = [some[n] for n in range(most) for some in chosen if n < len(some)]
    return turns[:most]


def text_of(session: Session, one: Mutation) -> str:
    """The whole text: without reading all launches of its recording again."""
    return Recording(session.bundle / one.recording, []).text(one.text)


# MARK: Runs


class Checker:
    """Runs mutations, each in a process of its own."""

    def __init__(self, session: Session, lines: Path, folder: Path) -> None:
        self.session, self.lines, self.folder = session, lines, folder
        self.count = 0
        """Of removals, also of those that did not end."""
        self.ended = 0

    def look(self, some: Iterable[Mutation]) -> list[Seen]:
        """In order. What there was no time for is not run."""
        numbered = []
        for one in some:
            numbered.append((self.count, one))
            self.count += 1
        # NVRTC works without Python's lock: threads are enough.
        with ThreadPoolExecutor(max(len(os.sched_getaffinity(0)) - 2, 1)) as pool:
            result = list(pool.map(lambda item: self.look_at(*item), numbered))
        self.ended += sum(one.hazards is not None for one in result)
        return result

    def look_at(self, number: int, one: Mutation) -> Seen:
        if self.session.left() <= 0:
            return Seen(None)
        replaced = {
            one.text: {
                "replaces": one.entry,
                "code": str(self.mutant(number, one)),
                "entry": one.entry,
            }
        }
        job = job_of(one.recording, one.record, replaced)
        found = checked(
            "racecheck", self.session, [job], self.folder, self.lines, self.session.left()
        )
        if found.errors is None:
            print(f"{one.record.name} without {one.removed}: {found.output[-600:]}", flush=True)
        return Seen(found.errors, first_report(found.output))

    def mutant(self, number: int, one: Mutation) -> Path:
        text = text_of(self.session, one)
        architecture = self.session.programs.architecture
        program = Programs(self.folder, architecture).program(of_text.without(text, *one.removed))
        machine_code, _ = nvrtc.build(
            program.source,
            architecture,
            (*MODES["safe"], "--diag-suppress=177,550", *program.options, "-lineinfo"),
        )
        path = self.folder / f"without_{number:05d}.cubin"
        path.write_bytes(machine_code)
        return path


_REPORT = re.compile(r"Race reported between (.*)\n=+\s+and (.*)")
_ACCESS = re.compile(r"(Read|Write) access at (.*)")


def first_report(output: str) -> str:
    """A sanitizer's first report: the two accesses, by function and line."""
    match = _REPORT.search(output)
    if match is None:
        return ""
    accesses = []
    for text in match.groups():
        access = _ACCESS.match(text)
        if access is None:
            return match.group()[:200]
        at = re.sub(r"\s*\[\d+ hazards?\]$", "", access.group(2))
        where = re.search(r"\bin (\S+:\d+)$", at)
        name = re.findall(r"(?:\w+::)*\w+(?=[(<+])", at)
        accesses.append(
            f"{access.group(1).lower()} in {name[0] if name else at[:60]}"
            + (f" ({where.group(1)})" if where else "")
        )
    return ", ".join(accesses)


@dataclass
class Outcome:
    """What removals of a place, alone, came to."""

    seen: list[Seen]
    calls: list[str]

    @property
    def told(self) -> Seen | None:
        return next((one for one in self.seen if one.hazards), None)

    @property
    def word(self) -> str:
        if self.told:
            return "reported"
        return "not run" if None in [v.hazards for v in self.seen] else "not reported"


def alone(of_place: dict[Place, list[Mutation]], checker: Any) -> dict[Place, Outcome]:
    """Each place by itself, in one call after the other until one tells."""
    outcomes = {place: Outcome([], []) for place in of_place}
    for turn in range(TRIES):
        left = [
            (place, tries[turn])
            for place, tries in of_place.items()
            if turn < len(tries) and not outcomes[place].told
        ]
        for (place, one), seen in zip(left, checker.look([one for _, one in left])):
            outcomes[place].seen.append(seen)
            outcomes[place].calls.append(one.record.name)
    return outcomes


def with_neighbours(
    session: Session,
    of_place: dict[Place, list[Mutation]],
    outcomes: dict[Place, Outcome],
    checker: Any,
) -> dict[Place, Seen]:
    """Places whose removal nothing tells, together with those next to them that are so as well."""
    silent = [place for place, one in outcomes.items() if one.word == "not reported"]
    questions = []
    for place in silent:
        for one in of_place[place]:
            text = text_of(session, one)
            own = {barrier.index for other, barrier in places(text) if other in silent}
            run = of_text.run_around(own, one.barrier.index)
            if len(run) > 1:
                questions.append((place, replace(one, removed=run)))
    result: dict[Place, Seen] = {}
    for (place, _), seen in zip(questions, checker.look([one for _, one in questions])):
        if place not in result or seen.hazards:
            result[place] = seen
    return result


def run(session: Session) -> None:
    lines = session.programs.folder.parent / "lines"
    code(session, ["checked", "vectors"], lines)
    of_place = sites(session)
    print(f"{len(of_place)} places of barriers", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        checker = Checker(session, lines, Path(temporary))
        outcomes = alone(of_place, checker)
        groups = with_neighbours(session, of_place, outcomes, checker)
    rows = [
        row(place, tries, outcomes[place], groups.get(place)) for place, tries in of_place.items()
    ]
    count = {
        what: sum(one["outcome"] == what for one in rows)
        for what in ("reported", "covered", "not reported", "not run")
    }
    session.add("barriers", {"places": len(rows), "removals": checker.ended, **count, "rows": rows})
    print(f"barriers: {count}, {checker.ended} removals", flush=True)
    for one in rows:
        if one["outcome"] in ("covered", "not reported"):
            where = f"{one['kernel']}, line {one['line']}: {one['around']}"
            print(f"  {one['outcome']}: {where} {one['calls']}", flush=True)


def row(
    place: Place, tries: list[Mutation], outcome: Outcome, group: Seen | None
) -> dict[str, Any]:
    told = outcome.told
    word = outcome.word
    if word == "not reported" and group is not None:
        word = "covered" if group.hazards else "not run" if group.hazards is None else word
        told = group if group.hazards else None
    return {
        "kernel": place[0],
        "barrier": place[1],
        "around": list(place[2:-1]),
        "line": tries[0].barrier.line,
        "calls": outcome.calls,
        "outcome": word,
        "hazards": told.hazards if told else 0,
        "report": told.report if told else "",
    }
