"""What a runner wrote down, and whether it agrees."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import vectors
from vectors import BF16, FP16, FP32, Case

Array = npt.NDArray[Any]
Key = tuple[str, str]
"""A case and a call."""

GRADIENTS = ("grad_query", "grad_key", "grad_value", "grad_mask", "grad_sinks", "d_values")
QUANTIZED = ("destination", "scales", "zero_points", "mean", "report")
FEATURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "output": ("forward", ("output",)),
    "logsumexp": ("forward", ("logsumexp",)),
    "gradients": ("backward", GRADIENTS),
    "quantize": ("quantize", QUANTIZED),
    "dequantize": ("dequantize", ("destination",)),
}
"""Columns of the table: the call, and the arrays."""


@dataclass
class Call:
    status: int
    message: str = ""
    arrays: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Results:
    language: str
    driver: str
    device: str = ""
    calls: dict[Key, Call] = field(default_factory=dict)
    skips: dict[Key, str] = field(default_factory=dict)
    missing: str = ""
    """Why it did not run."""
    problem: str = ""
    """What it complained of."""
    complete: bool = False

    def read(self, folder: Path) -> None:
        """Reads the files of a runner that has come to its end."""
        text = (folder / "results.txt").read_text(encoding="utf-8")
        if not text.endswith("\nend\n"):
            return
        content = (folder / "results.bin").read_bytes()
        call = Call(-1)
        for line in text.splitlines():
            item, _, rest = line.partition(" ")
            if item == "mfa-results":
                assert rest == "1", f"version {rest} of the results, expected 1"
            elif item == "device":
                self.device = rest
            elif item == "call":
                case, name, status = rest.split()
                assert (case, name) not in self.calls, f"{case} {name} is there twice"
                call = self.calls[case, name] = Call(int(status))
            elif item == "message":
                call.message = rest
            elif item == "array":
                name, offset, size = rest.split()
                call.arrays[name] = content[int(offset) : int(offset) + int(size)]
            elif item == "skip":
                case, name, reason = rest.split(maxsplit=2)
                self.skips[case, name] = reason
            elif item == "end":
                self.complete = True
            else:
                raise AssertionError(f"unknown item: {line}")

    def arrays(self, feature: str) -> dict[tuple[str, str], bytes]:
        """By case and name."""
        wanted, names = FEATURES[feature]
        return {
            (case, name): call.arrays[name]
            for (case, which), call in self.calls.items()
            if which == wanted
            for name in names
            if name in call.arrays
        }

    def unsupported(self) -> int:
        return sum(call.status == 6 for call in self.calls.values())


@dataclass
class Runner:
    """How a language is started on a driver."""

    driver: str
    language: str
    missing: str = ""
    """Why it cannot be."""
    folder: str = "."
    environment: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def read_runners(path: Path) -> list[Runner]:
    """What `cargo xtask test --only cross` has built; README.md says what the fields are."""
    return [Runner(**runner) for runner in json.loads(path.read_text(encoding="utf-8"))]


def run(runner: Runner, out: Path) -> Results:
    """Runs it; what it writes goes to a folder in `out`."""
    results = Results(runner.language, runner.driver, missing=runner.missing)
    if runner.missing:
        return results
    folder = out / runner.driver / runner.language
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results.txt", "results.bin"):
        (folder / name).unlink(missing_ok=True)
    command = ["env", *runner.environment, f"MFA_RESULTS={folder}", *runner.words]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        ended = subprocess.run(
            command, cwd=runner.folder, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if (folder / "results.bin").exists() and (folder / "results.txt").exists():
        results.read(folder)
    if ended.returncode != 0:
        tail = (folder / "log.txt").read_text(encoding="utf-8").splitlines()[-20:]
        results.problem = "\n".join([f"its runner ended with status {ended.returncode}", *tail])
    return results


def expected_calls(case: Case) -> list[str]:
    if case.call in ("quantize", "dequantize"):
        return [case.call]
    gradient = ["backward"] if "grad_output" in case.tensors else []
    return (["forward"] if "output" in case.tensors else []) + gradient


def all_calls() -> dict[Key, Case]:
    return {
        (case.name, call): case
        for case in vectors.cases().values()
        for call in expected_calls(case)
    }


def numbers(case: Case, name: str, content: bytes) -> Array:
    """A tensor's values, or those of the report, in float64."""
    if name == "report":
        return np.frombuffer(content, "<f8")
    tensor = case.tensors[name]
    kind = vectors.dtype(tensor.precision)
    return np.frombuffer(content, kind).astype(np.float64).reshape(tensor.shape)


def real(case: Case, name: str) -> bool:
    """Whether an array holds floating-point numbers that the error rule is about."""
    return name in case.tensors and case.tensors[name].precision in (FP32, FP16, BF16)


def breaks_the_rule(case: Case, name: str, content: bytes) -> str:
    """What is wrong with an array, judged against the float64 reference; "" if nothing is."""
    if name not in case.values:
        return ""
    found, expected = numbers(case, name, content), case.expected_values(name).astype(np.float64)
    allowed, finite = case.values[name], np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return "NaN or an infinity is missing or misplaced"
    error = np.abs(np.where(finite, found, 0.0) - np.where(finite, expected, 0.0))
    if not np.isfinite(error).all():
        return "not finite where it should be"
    rms = np.sqrt(np.square(error).sum(axis=(2, 3)) / np.maximum(finite.sum(axis=(2, 3)), 1))
    if error.size and error.max() > allowed.max:
        return f"an error of {error.max():.3g}, allowed {allowed.max:.3g}"
    if rms.size and rms.max() > allowed.rms:
        return f"an RMS error of {rms.max():.3g}, allowed {allowed.rms:.3g}"
    return ""


def drivers_differ(case: Case, name: str, one: bytes, other: bytes) -> str:
    """How arrays of two drivers differ by more than both may differ from the reference."""
    if name == "report":
        ours, theirs = numbers(case, name, one), numbers(case, name, other)
        same = np.allclose(ours, theirs, rtol=2e-4, atol=0.0)
        return "" if same else f"reports of {ours} and {theirs}"
    if not real(case, name) or name not in case.values:
        return "" if one == other else "other bytes"
    ours, theirs = numbers(case, name, one), numbers(case, name, other)
    finite = np.isfinite(ours)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return "NaN or an infinity in one of them"
    difference = np.abs(np.where(finite, ours, 0.0) - np.where(finite, theirs, 0.0))
    most = 2 * case.values[name].max
    if not difference.size or difference.max() <= most:
        return ""
    return f"a difference of {difference.max():.3g}, allowed {most:.3g}"
