"""Writes the page of results: `python -m metal_cuda.page [--check] PAGE RESULT…`.

A result is a JSON file of metal_cuda.run; each has parts of its own. With --check the page is only compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_HEAD = """# Metal kernels on an NVIDIA GPU

Do not edit: `cargo xtask metal-cuda --page` writes this page from the JSON files beside it.

The texts that the Metal driver hands to a Metal compiler, translated to CUDA C++ and run on a GPU of NVIDIA's, with the launches
that the driver encodes: its kernels, argument blocks, grids and threadgroup memory (`LaunchRecorder` writes them down). What
this shows: the kernels do not depend on the software device's order of threads, their barriers suffice under real concurrency, and
the numbers hold where subnormals are flushed and functions are fast. What it does not show: that Apple's compiler takes the texts,
and what Apple's GPUs do with them: **no Mac has run them**.

Three modes of arithmetic: *safe* as the driver asks for, *flush* with subnormals of FP32 flushed to zero (as Apple's GPUs do), *fast*
with approximate division, square roots and exponentials as well (`-use_fast_math`).
"""


def page(results: list[Json]) -> str:
    """The page, in Markdown."""
    parts = {name: value for result in results for name, value in result["parts"].items()}
    text = _HEAD
    text += "".join(f"\n- {_origin(result)}" for result in results) or "\nThere are no results yet."
    text += "\n"
    for name, section in (
        ("vectors", _vectors),
        ("large", _large),
        ("rounding", _rounding),
        ("sanitize", _sanitize),
        ("barriers", _barriers),
    ):
        if name in parts:
            text += "\n" + section(parts[name])
    return text


def _origin(result: Json) -> str:
    machine = result["machine"]
    return (
        f"{result['date']}: {machine['gpu']} (compute capability {machine['compute_capability']}, CUDA "
        f"{machine['cuda_driver']}), `{result['command']}`: {', '.join(_parts(result))}"
    )


def _parts(result: Json) -> list[str]:
    return [name for name in result["parts"] if name != "compiled"]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _table(first: list[str], numbers: list[str]) -> str:
    return _row(*first, *numbers) + "|" + "---|" * len(first) + "--:|" * len(numbers) + "\n"


def _ratio(mode: Json | None) -> str:
    """The largest error over the allowed one; bold where something is wrong."""
    if mode is None:
        return "not run"
    wrong = mode.get("failed", 0) or len(mode.get("problems", []))
    return f"**{mode['ratio']:.2f}**" if wrong else f"{mode['ratio']:.2f}"


def _modes(rows: list[Json]) -> list[str]:
    return list(dict.fromkeys(mode for row in rows for mode in row.get("modes", {})))


def _vectors(part: Json) -> str:
    rows: dict[str, Json] = part["rows"]
    modes = _modes(list(rows.values()))
    text = (
        f"## The conformance vectors\n\n{part['calls']} calls, {part['launches']} launches of {part['texts']} texts. "
        "Largest error over the allowed one (`tests/conformance/reference/errorrule.py`) of a call; bold: a call failed.\n\n"
    )
    text += _table(["kernel, keys, values"], ["calls", "texts", *modes])
    for name, row in rows.items():
        text += _row(
            name, row["calls"], row["texts"], *(_ratio(row["modes"].get(mode)) for mode in modes)
        )
    for mode, problems in part["problems"].items():
        text += f"\n{mode}: {part['calls'] - len(problems)} of {part['calls']} calls passed.\n"
        text += "".join(f"- {problem}\n" for problem in problems[:20])
        text += f"- and {len(problems) - 20} more\n" if len(problems) > 20 else ""
    return text


def _large(part: Json) -> str:
    rows = [row for row in part["rows"] if "modes" in row]
    modes = _modes(rows)
    text = (
        "## Sizes of real use\n\nAgainst float64 on the same GPU. Allowed is what eq. 55 of [math.md](math.md) allows, over all rows, heads "
        "and keys: the naive error of four orders of summation, and the noise. The first numbers are the largest errors of O and of a "
        "gradient in safe mode.\n\n"
    )
    text += _table(["call", "stored", "size"], ["O", "gradients", *modes])
    for row in rows:
        results = (row["modes"].get("safe") or next(iter(row["modes"].values())))["results"] or {}
        gradients = [x["max"] for role, x in results.items() if role.startswith("grad_")]
        errors = [f"{results['output']['max']:.1e}" if "output" in results else "-"]
        errors.append(f"{max(gradients):.1e}" if gradients else "-")
        text += _row(
            row["name"],
            row["stored"],
            row["size"],
            *errors,
            *(_ratio(row["modes"].get(mode)) for mode in modes),
        )
    for row in part["rows"]:
        if "skipped" in row:
            text += f"\n{row['name']}: {row['skipped']}.\n"
    for row in rows:
        for mode in modes:
            for problem in row["modes"].get(mode, {}).get("problems", []):
                text += f"- {row['name']}, {mode}: {problem}\n"
    return text


def _rounding(part: Json) -> str:
    modes = _modes(part["rows"])
    text = (
        "## Quantizing and dequantizing\n\nBytes of integers, scales and zero points, and real numbers, that are not those of the "
        "contract. (The driver compiles with safe mathematics; correctly rounded division is what fast mode lacks.)\n\n"
    )
    text += _table(["call", "shape"], modes)
    for row in part["rows"]:
        cells = []
        for mode in modes:
            one = row["modes"][mode]
            different = sum(x["different"] for x in (one["results"] or {}).values())
            cells.append(f"**{different}**" if one["problems"] else "0")
        text += _row(row["name"], " x ".join(map(str, row["shape"])), *cells)
    return text


def _sanitize(part: Json) -> str:
    text = f"## Sanitizers\n\ncompute-sanitizer on {part['calls']} small calls, {part['launches']} launches.\n\n"
    text += _table(["tool"], ["errors", "processes that did not end"])
    for tool, found in part["tools"].items():
        text += _row(tool, found["errors"], len(found["unfinished"]))
    return text


def _barriers(part: Json) -> str:
    text = (
        f"## Barriers\n\nEach of {part['places']} places of a barrier was emptied alone, in one call after the other until racecheck "
        f"reported a hazard, each time in a process of its own: {part['reported']} were reported, {part['covered']} were covered, "
        f"{part['not reported']} were not reported"
    )
    text += f", and {part['not run']} were not run.\n" if part["not run"] else ".\n"
    silent = [row for row in part["rows"] if row["outcome"] in ("covered", "not reported")]
    if silent:
        text += (
            "\n*Covered*: nothing is reported without this barrier alone, but is without it and those next to it of which the same "
            "holds: each suffices where the others are gone. *Not reported*: nothing is reported without those either: in these calls "
            "other barriers, or nothing that is shared, lie between the accesses around it. Racecheck judges accesses that the calls "
            "make to threadgroup memory, between SIMD groups and between the lanes of one.\n\n"
        )
        text += _table(["kernel", "line", "between", "calls", "outcome"], [])
        for row in silent:
            around = [line.replace("|", "\\|") for line in row["around"]]
            between = f"`{around[1] or around[0]}` and `{around[2] or around[-1]}`"
            text += _row(
                row["kernel"], row["line"], between, ", ".join(row["calls"]), row["outcome"]
            )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="metal_cuda.page", description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    new = page([json.loads(path.read_text()) for path in arguments.results])
    if not arguments.check:
        arguments.page.write_text(new)
        print(arguments.page)
        return 0
    if arguments.page.exists() and arguments.page.read_text() == new:
        return 0
    print(f"{arguments.page.name} is stale: run `cargo xtask metal-cuda --page`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
