"""The committed vectors are what the generator makes of the reference."""

from __future__ import annotations

import generate


def test_vectors_are_as_generated() -> None:
    assert generate.differences(generate.files()) == []


def test_every_status_and_call_is_there() -> None:
    pages = [path.read_text(encoding="ascii") for path in sorted(generate.VECTORS.glob("*.txt"))]
    lines = [line for page in pages for line in page.splitlines()]
    found = {tuple(line.split()[2:4]) for line in lines if line.startswith("case ")}
    calls = {"attention", "quantize", "dequantize", "plain", "training"}
    assert {call for call, status in found if status == "0"} == calls
    assert {status for _, status in found} == {"0", "3", "5"}
