from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "python" / "umfa" / "tests"))

import results  # noqa: E402
from results import FEATURES, Results  # noqa: E402

TITLE = "Arrays with the same bits in every language, and calls that are refused alike:"
Cells = dict[tuple[str, str, str], str]
ANSWERS = pytest.StashKey[list[Results]]()
CELLS = pytest.StashKey[Cells]()


def runners_file() -> Path:
    made = REPO / "target" / "xtask" / "cross" / "runners.json"
    path = Path(os.environ.get("MFA_RUNNERS", made))
    if not path.exists():
        raise pytest.UsageError(f"no {path}: `cargo xtask test --only cross` builds the runners")
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    wanted = {"line", "other_driver"} & set(names)
    runners = results.read_runners(runners_file()) if wanted else []
    lines = [(runner.driver, runner.language) for runner in runners]
    if "line" in names:
        metafunc.parametrize("line", lines, ids=["-".join(line) for line in lines])
    if "feature" in names:
        metafunc.parametrize("feature", list(FEATURES))
    if "other_driver" in names:
        drivers = list(dict.fromkeys(driver for driver, _ in lines))
        metafunc.parametrize("other_driver", drivers[1:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One driver has none to agree with."""
    items[:] = [item for item in items if not item.name.endswith("-NOTSET]")]


@pytest.fixture(scope="session")
def answers(pytestconfig: pytest.Config) -> list[Results]:
    """What every language got from every driver."""
    path = runners_file()
    everything = [results.run(runner, path.parent) for runner in results.read_runners(path)]
    pytestconfig.stash[ANSWERS] = everything
    return everything


@pytest.fixture
def cells(pytestconfig: pytest.Config) -> Cells:
    """The table: by driver, language and feature."""
    return pytestconfig.stash.setdefault(CELLS, {})


def table(lines: list[Results], cells: Cells) -> Iterator[str]:
    heads = [*FEATURES, "errors"]
    rows = [["driver", "language", *heads]]
    for line in lines:
        key = (line.driver, line.language)
        rows.append([*key, *(cells.get((*key, feature), "-") for feature in heads)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def notes(lines: list[Results]) -> Iterator[str]:
    for line in lines:
        words = f"{line.language} on {line.driver}"
        if line.missing or line.problem:
            yield f"{words}: {line.missing or line.problem.splitlines()[0]}"
        elif line.skips or line.unsupported():
            yield (
                f"{words}: no words for {len(line.skips)} calls; "
                f"{line.unsupported()} calls not supported by the driver"
            )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(ANSWERS, None)
    if lines is None:
        return
    text = [TITLE, *table(lines, config.stash.get(CELLS, {})), *notes(lines)]
    for line in text:
        terminalreporter.line(line)
    if "MFA_TABLE" in os.environ:
        Path(os.environ["MFA_TABLE"]).write_text("\n".join(text) + "\n", encoding="utf-8")
