"""Every language, on every driver: the same bits; every driver: the same answer; every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import vectors
from results import (
    FEATURES,
    GRADIENTS,
    Results,
    all_calls,
    breaks_the_rule,
    drivers_differ,
)

Cells = dict[tuple[str, str, str], str]
Line = tuple[str, str]

ERRORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "errors.json").read_text(encoding="utf-8")
)["errors"]
UNSUPPORTED = 6


def find(answers: list[Results], driver: str, language: str) -> Results:
    found = next(a for a in answers if (a.driver, a.language) == (driver, language))
    if found.missing:
        pytest.skip(found.missing)
    assert found.complete, found.problem or "the results have no end"
    return found


def reference(answers: list[Results], driver: str) -> Results:
    """The first language of a driver: the others are compared with it, and it with the vectors."""
    return next(a for a in answers if a.driver == driver and a.complete)


def shown(problems: list[str]) -> str:
    return "\n".join([f"{len(problems)} differ:", *problems[:20]])


def test_runner_is_content(answers: list[Results], line: Line) -> None:
    """Each of them judges what it sees by itself."""
    problem = find(answers, *line).problem
    assert not problem, problem


def test_every_call_is_made(answers: list[Results], line: Line) -> None:
    """Calls are made, or skipped with a reason; only Python, whose arrays say most themselves, may
    have no words for some: for D, and for calls that must fail."""
    answer, calls = find(answers, *line), all_calls()
    assert set(answer.calls) | set(answer.skips) == set(calls)
    assert not set(answer.calls) & set(answer.skips)
    if line[1] != "Python":
        assert not answer.skips
    for key in answer.skips:
        case = calls[key]
        needs_d = case.flags & 1 or not set(GRADIENTS[:3]) & set(case.tensors)
        assert case.status or (key[1] == "backward" and needs_d), f"{key}: {answer.skips[key]}"


def test_statuses(answers: list[Results], line: Line) -> None:
    answer, calls = find(answers, *line), all_calls()
    wrong = [
        f"{case} {call}: status {made.status} ({made.message}), expected {calls[case, call].status}"
        for (case, call), made in answer.calls.items()
        if made.status not in (calls[case, call].status, UNSUPPORTED)
    ]
    assert not wrong, shown(wrong)
    first = reference(answers, line[0])
    both = set(answer.calls) & set(first.calls)
    other = [f"{key}" for key in both if answer.calls[key].status != first.calls[key].status]
    assert not other, shown(other)


def test_same_bits(answers: list[Results], cells: Cells, line: Line, feature: str) -> None:
    """The language's arrays are those of the reference language; its own are right."""
    answer, first = find(answers, *line), reference(answers, line[0])
    ours, theirs = answer.arrays(feature), first.arrays(feature)
    wrong = []
    for (case_name, name), content in ours.items():
        case = vectors.cases()[case_name]
        if (case_name, name) not in theirs:
            wrong.append(f"{case_name} {name}: not in {first.language}")
        elif answer is first:
            problem = breaks_the_rule(case, name, content)
            wrong += [f"{case_name} {name}: {problem}"] if problem else []
        elif content != theirs[case_name, name]:
            wrong.append(f"{case_name} {name}: other bytes than in {first.language}")
    agree = len(ours) - len(wrong)
    cells[(*line, feature)] = str(agree) if agree == len(theirs) else f"{agree} of {len(theirs)}"
    assert not wrong, shown(wrong)
    assert ours, "nothing was compared"
    absent = {key for key in theirs if key not in ours}
    call = FEATURES[feature][0]
    assert all((case, call) in answer.skips or name == "d_values" for case, name in absent), absent


def test_refusals(answers: list[Results], cells: Cells, line: Line) -> None:
    """Code and kind of message."""
    answer, by_case = find(answers, *line), {entry["case"]: entry for entry in ERRORS}
    wrong, right = [], 0
    for (case, call), made in answer.calls.items():
        if vectors.cases()[case].status == 0:
            continue
        entry = by_case[case]
        pattern = entry.get("in", {}).get(line[1], entry["message"])
        if made.status != entry["code"] or not re.search(pattern, made.message):
            wrong.append(
                f'{case} {call}: {made.status}, "{made.message}"; '
                f'expected {entry["code"]}, "{pattern}"'
            )
        else:
            right += 1
    cells[(*line, "errors")] = str(right) if right == len(ERRORS) else f"{right} of {len(ERRORS)}"
    assert not wrong, shown(wrong)
    assert right, "nothing was refused"


def test_every_refusal_has_a_sentence() -> None:
    """Faults and errors.json name the same cases, once each, with the same status."""
    faults = {case.name: case.status for case in vectors.cases().values() if case.status}
    assert {entry["case"]: entry["code"] for entry in ERRORS} == faults
    assert len(ERRORS) == len(faults)


def test_drivers_agree(answers: list[Results], feature: str, other_driver: str) -> None:
    """Two drivers differ by no more than each may differ from the reference."""
    one, other = reference(answers, answers[0].driver), reference(answers, other_driver)
    ours, theirs = one.arrays(feature), other.arrays(feature)
    wrong = []
    for key in set(ours) & set(theirs):
        problem = drivers_differ(vectors.cases()[key[0]], key[1], ours[key], theirs[key])
        wrong += [f"{' '.join(key)}: {problem}"] if problem else []
    assert not wrong, shown(wrong)
    assert set(ours) & set(theirs), "nothing was compared"
