"""The page of results."""

from __future__ import annotations

from typing import Any

from metal_cuda.page import page


def result(**parts: Any) -> dict[str, Any]:
    machine = {"gpu": "A GPU", "compute_capability": "9.0", "cuda_driver": "13.0"}
    return {"date": "2026-01-02", "machine": machine, "command": "run.sh numbers", "parts": parts}


def test_says_where_it_comes_from() -> None:
    text = page([result(compiled={}, sanitize={"calls": 3, "launches": 7, "tools": {}})])
    assert (
        "- 2026-01-02: A GPU (compute capability 9.0, CUDA 13.0), `run.sh numbers`: sanitize\n"
        in text
    )
    assert "on 3 small calls, 7 launches" in text


def test_what_failed_is_bold_and_named() -> None:
    good, bad = {"failed": 0, "ratio": 0.5}, {"failed": 2, "ratio": 1.25}
    rows = {"decode": {"calls": 4, "texts": 2, "modes": {"safe": good, "fast": bad}}}
    problems = {"safe": [], "fast": ["a/forward: output", "b/forward: output"]}
    text = page(
        [
            result(
                vectors={"calls": 4, "launches": 5, "texts": 2, "rows": rows, "problems": problems}
            )
        ]
    )
    assert "| decode | 4 | 2 | 0.50 | **1.25** |" in text
    assert "safe: 4 of 4 calls passed." in text
    assert "fast: 2 of 4 calls passed.\n- a/forward: output\n" in text


def test_large_calls_and_what_was_skipped() -> None:
    results = {"output": {"max": 2e-7}, "grad_key": {"max": 3e-6}, "grad_query": {"max": 1e-6}}
    mode = {"ratio": 0.75, "problems": [], "results": results}
    rows = [
        {"name": "long", "stored": "Q FP16", "size": "1 x 2", "modes": {"safe": mode}},
        {"name": "longer", "skipped": "no time was left"},
    ]
    text = page([result(large={"rows": rows})])
    assert "| long | Q FP16 | 1 x 2 | 2.0e-07 | 3.0e-06 | 0.75 |" in text
    assert "longer: no time was left." in text


def test_barriers_that_nothing_saw() -> None:
    row = {"kernel": "prefill", "line": 7, "around": ["a", "b | c", "d", "e"], "calls": ["x", "y"]}
    rows = [
        {**row, "outcome": "not reported"},
        {**row, "outcome": "covered", "kernel": "decode"},
        {**row, "outcome": "reported", "kernel": "dequantize"},
    ]
    count = {"places": 4, "reported": 1, "covered": 1, "not reported": 1, "not run": 1}
    text = page([result(barriers={**count, "rows": rows})])
    assert "Each of 4 places" in text
    assert "1 were reported, 1 were covered, 1 were not reported, and 1 were not run." in text
    assert "| prefill | 7 | `b \\| c` and `d` | x, y | not reported |" in text
    assert "| decode | 7 | `b \\| c` and `d` | x, y | covered |" in text
    assert "| dequantize |" not in text
    text = page([result(barriers={**count, "not run": 0, "rows": rows[2:]})])
    assert "1 were not reported.\n" in text
    assert "*Covered*" not in text
