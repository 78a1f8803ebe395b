"""Barriers removed in turn, with a checker that knows what each of them is for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metal_cuda import barriers, removals
from metal_cuda.records import Launch, Record
from metal_cuda.removals import Mutation, Seen

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
# The first and the second stand beside each other; the third alone; the fourth orders nothing.
TEXT = f"""// forward, Q FP16
// 32 rows a threadgroup, 64 keys a tile
a[0] = x;
{BARRIER}
y = b * b;
{BARRIER}
z = a[1];
a[2] = z;
{BARRIER}
z = a[3];
y = y * y;
{BARRIER}
y = y + y;
"""
OUTPUT = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at void msl::simdgroup_store<float>(msl::simdgroup_matrix<T1, \
(int)8, (int)8>, T1 *, unsigned long)+0x1f20 in default_program:611
=========     and Read access at attention_forward(const msl::half *, float *)+0x2290 in text:385 [3968 hazards]
=========     and Read access at attention_forward(const msl::half *, float *)+0x22a0 in text:386 [12 hazards]
=========
1 calls done
"""


def launch(text: str, entry: str, grid: tuple[int, int, int] = (1, 1, 1)) -> Launch:
    return Launch(text, entry, grid, 32, {}, {}, 0)


def record(name: str, *launches: Launch) -> Record:
    return Record(name, [], [], list(launches), None)


class Session:
    """A bundle with two recordings."""

    def __init__(self, bundle: Path, checked: list[Record], vectors: list[Record]) -> None:
        self.bundle = bundle
        self.records = {"checked": checked, "vectors": vectors}

    def recording(self, name: str) -> Any:
        texts = self.bundle / name / "texts"
        return SimpleNamespace(
            records=self.records[name], text=lambda x: (texts / f"{x}.metal").read_text()
        )


class Checker:
    """Reports a hazard where the third barrier is gone, or the first and the second."""

    def __init__(self, ends: bool = True) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.ends = ends

    def look(self, some: list[Mutation]) -> list[Seen]:
        self.asked += [(one.record.name, one.removed) for one in some]
        return [self.look_at(one) for one in some]

    def look_at(self, one: Mutation) -> Seen:
        if not self.ends:
            return Seen(None)
        raced = 2 in one.removed or {0, 1} <= set(one.removed)
        # Only the second call takes the loop twice.
        return Seen(5, "a, b") if raced and one.record.name == "long/forward" else Seen(0)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    for name in ("checked", "vectors"):
        (tmp_path / name / "texts").mkdir(parents=True)
        (tmp_path / name / "texts" / "t.metal").write_text(TEXT)
    calls = [
        record("short/forward", launch("t", "attention_forward")),
        record("long/forward", launch("t", "attention_forward")),
        record("empty/forward", launch("t", "attention_forward", (0, 1, 1))),
    ]
    return Session(tmp_path, calls, [])


def rows(session: Any, checker: Checker) -> list[dict[str, Any]]:
    of_place = removals.sites(session)
    outcomes = removals.alone(of_place, checker)
    groups = removals.with_neighbours(session, of_place, outcomes, checker)
    return [
        removals.row(place, tries, outcomes[place], groups.get(place))
        for place, tries in of_place.items()
    ]


def test_a_barrier_is_reported_covered_or_not(session: Session) -> None:
    checker = Checker()
    found = rows(session, checker)
    assert [(row["line"], row["outcome"]) for row in found] == [
        (4, "covered"),
        (6, "covered"),
        (9, "reported"),
        (12, "not reported"),
    ]
    assert [row["hazards"] for row in found] == [5, 5, 5, 0]
    # What launches no threadgroup cannot tell.
    assert {name for name, _ in checker.asked} == {"short/forward", "long/forward"}
    assert found[2]["calls"] == ["short/forward", "long/forward"]
    # Alone in both calls; the two beside each other together; the last has none beside it.
    assert {removed for _, removed in checker.asked} == {(0,), (1,), (2,), (3,), (0, 1)}
    json.dumps(found)


def test_what_did_not_end_is_not_run(session: Session) -> None:
    assert {row["outcome"] for row in rows(session, Checker(ends=False))} == {"not run"}


def test_removes_several_barriers() -> None:
    text = barriers.without(TEXT, 0, 3)
    assert [barrier.line for barrier in barriers.barriers(text)] == [6, 9]
    assert text.count("\n") == TEXT.count("\n")
    assert barriers.run_around({0, 1, 3, 4, 5}, 4) == (3, 4, 5)
    assert barriers.run_around({0, 1, 3}, 3) == (3,)


def test_calls_from_all_over_the_list_and_of_each_kernel() -> None:
    barrier = barriers.barriers(TEXT)[0]
    tries = [
        Mutation(barrier, "vectors", record(str(n)), "t", entry, (0,))
        for entry, count in (("quantize_round", 20), ("dequantize", 2))
        for n in range(count)
    ]
    chosen = removals.spread(tries, 6)
    assert [(one.entry, one.record.name) for one in chosen] == [
        ("quantize_round", "0"),
        ("dequantize", "0"),
        ("quantize_round", "3"),
        ("dequantize", "1"),
        ("quantize_round", "6"),
        ("quantize_round", "10"),
    ]


def test_a_hazard_counts_whatever_function_it_is_put_down_to() -> None:
    assert removals.first_report(OUTPUT) == (
        "write in msl::simdgroup_store (default_program:611), read in attention_forward (text:385)"
    )
    assert removals.first_report("========= RACECHECK SUMMARY: 0 hazards") == ""


def test_only_rotated_calls_come_to_a_rotation() -> None:
    text = f"static void prepare(int x) {{\n  {BARRIER}\n}}\n"
    barrier = barriers.barriers(text)[0]
    plain, rotated = record("int8_row/quantize"), record("int8_row_rotated/quantize")
    assert removals.reaches("quantize_round", barrier, rotated)
    assert not removals.reaches("quantize_round", barrier, plain)
    assert not removals.reaches("dequantize", barrier, rotated)
