"""Weights sum to one: what divides is the sum of what is multiplied, in every format of V.

The scores are an additive mask beside a query of zeros, so that a pattern is what it says: peaks over
flat or noisy tails, long rows, and keys hidden as by a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from check import FEW, SAID

import umfa

LENGTHS = (1, 2, 17, 64, 255, 257) if FEW else (1, 2, 17, 64, 255, 257, 1000, 2048)
# Batches of this many query rows: decoding, few rows, tiles of the integer product and their edges.
SHAPES = ((2, 1), (1, 17)) if FEW else ((50, 1), (40, 5), (25, 16), (10, 60))
EXACT_SUMS, FP32_SUMS = "integer products", "FP32 products"
PATTERNS = len(LENGTHS) * sum(batch * rows for batch, rows in SHAPES)
DV = 64

FORMATS: dict[str, dict[str, Any]] = {
    f"{precision} {name}": {"precision": precision, **how}
    for precision in ("int8", "int4")
    for name, how in {
        "tensor": {"granularity": "tensor"},
        "tensor, zero point": {"granularity": "tensor", "symmetric": False},
        "row": {"granularity": "row"},
        "row, zero points": {"granularity": "row", "symmetric": False},
        "row, groups of 32": {"granularity": "row", "group": 32},
        "block of 16": {"granularity": "block", "block_rows": 16},
        "block of 100": {"granularity": "block", "block_rows": 100},
        "channel of 16": {"granularity": "channel", "block_rows": 16},
        "channel of 64, rotated": {"granularity": "channel", "block_rows": 64, "rotate": True},
    }.items()
}


def scores(rng: np.random.Generator, batch: int, rows: int, keys: int) -> np.ndarray:
    """[batch, 1, rows, keys]: each row a pattern of its own."""
    shape = (batch, 1, rows, 1)
    noise = rng.choice([0.0, 0.0, 0.01, 1.0], shape)
    result = noise * rng.standard_normal((batch, 1, rows, keys))
    for _ in range(2):
        height = rng.uniform(0, 16, shape) * (rng.random(shape) < 0.8)
        at = rng.integers(0, keys, shape)
        result += np.where(np.arange(keys) == at, height, 0.0)
    # What a window leaves: at least one key.
    first = rng.integers(0, keys, shape) * (rng.random(shape) < 0.3)
    hidden = np.arange(keys) < first
    return np.where(hidden, -np.inf, result).astype(np.float32)


@dataclass
class Pattern:
    keys: int
    scores: np.ndarray
    weights: np.ndarray
    peaks: np.ndarray
    """[keys]: the keys at which a row of the batch has its highest score."""


@pytest.fixture(scope="module")
def patterns() -> list[Pattern]:
    rng, result = np.random.default_rng(5), []
    for keys in LENGTHS:
        for batch, rows in SHAPES:
            s = scores(rng, batch, rows, keys)
            p = np.exp(s.astype(np.float64) - s.max(axis=-1, keepdims=True))
            p /= p.sum(axis=-1, keepdims=True)
            # V is 0 where the first row of a batch has its peak.
            peaks = np.zeros((batch, 1, keys), bool)
            peaks[np.arange(batch), 0, s[:, 0, 0].argmax(axis=-1)] = True
            result.append(Pattern(keys, s, p, peaks))
    return result


# What integer products of 16-bit P keep, whose sums are exact; and FP32 sums, in which some hundred
# small weights are rounded to the size of a large one.
EXACT, FLOATS = 1e-6, 1e-5


@dataclass
class Worst:
    error: float = 0.0
    where: str = ""
    by: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, error: np.ndarray, pattern: Pattern) -> None:
        worst = float(error.max())
        self.by[name] = max(self.by.get(name, 0.0), worst)
        if not worst <= self.error:
            self.error, self.where = worst, f"{name}, scores of {pattern.scores.shape}"


def results(pattern: Pattern, v: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    batch, _, rows, keys = pattern.scores.shape
    s = pattern.scores
    q, k = np.zeros((batch, 1, rows, 2), np.float32), np.zeros((batch, 1, keys, 2), np.float32)
    for name, how in FORMATS.items():
        stored = umfa.quantize(v, **how)
        exact = "values: 16-bit products" in umfa.explain(q, k, stored, attn_mask=s)
        sums = EXACT_SUMS if exact else FP32_SUMS
        yield f"{name}, {sums}", umfa.attention(q, k, stored, attn_mask=s)


def say(title: str, worst: Worst) -> None:
    SAID.append(f"{title}, {PATTERNS} patterns in each format of V:")
    SAID.extend(f"  {name:<44} {error:.2e}" for name, error in worst.by.items())


def test_values_of_one(patterns: list[Pattern]) -> None:
    """With V = 1 every output is 1."""
    worst = Worst()
    for pattern in patterns:
        ones = np.ones((pattern.scores.shape[0], 1, pattern.keys, DV), np.float32)
        for name, out in results(pattern, ones):
            worst.add(name, np.abs(out.astype(np.float64) - 1), pattern)
    say("worst |O - 1|", worst)
    assert PATTERNS >= 10_000 or FEW
    for name, error in worst.by.items():
        assert error <= (EXACT if name.endswith(EXACT_SUMS) else FLOATS), name


def test_no_mass_moves(patterns: list[Pattern]) -> None:
    """With V = 1 on a tail and 0 on the peak above it, the tail's part is right."""
    worst = Worst()
    for pattern in patterns:
        v = np.broadcast_to(~pattern.peaks[..., None], (*pattern.peaks.shape, DV))
        exact = (pattern.weights * ~pattern.peaks[:, :, None, :]).sum(axis=-1)[..., None]
        for name, out in results(pattern, v.astype(np.float32)):
            worst.add(name, np.abs(out.astype(np.float64) - exact), pattern)
    say("worst error of a tail's part of the total", worst)
    assert worst.error <= 1e-4, worst.where
