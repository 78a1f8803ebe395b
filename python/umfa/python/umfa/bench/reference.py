"""Random operands, float64 attention of a few heads and rows, and the error against it.

A worker may run in an environment that has no umfa: the formula is NumPy's. The package's tests
compare it with the conformance reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from umfa.bench.cases import TRAINING, Case

Array = npt.NDArray[Any]

# Heads and rows of a head that are checked: enough to notice a wrong tile, whatever the shape.
HEADS, ROWS = 4, 64


@dataclass(frozen=True)
class Operands:
    """Query, key, value and, for gradients, the gradient of the output; all FP32, N(0, 1)."""

    q: Array
    k: Array
    v: Array
    grad_out: Array | None


def operands(case: Case, seed: int) -> Operands:
    """The same arrays in every process that is given the same seed."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal(shape, np.float32)
        for shape in (case.q_shape, case.k_shape, case.v_shape)
    )
    grad = rng.standard_normal(case.out_shape, np.float32) if case.kind == TRAINING else None
    return Operands(q, k, v, grad)


class Exact(Protocol):
    """What results are compared with."""

    def error(self, found: Any, /) -> float:
        """RMSE relative to the exact result's RMS."""
        ...


def exact(case: Case, given: Operands) -> Exact:
    """The result of a case in float64; where K is stored, K itself."""
    if case.stores:
        return Original(given.k)
    return gradients(case, given) if case.kind == TRAINING else forward(case, given)


@dataclass(frozen=True)
class Original:
    """An array that was stored, of which the first rows may be enough."""

    array: Array

    def error(self, found: Array) -> float:
        """RMSE of the rows that were read back, relative to their RMS."""
        wanted = self.array[:, :, : found.shape[2]].astype(np.float64)
        return relative([np.asarray(found, np.float64)], [wanted])


def _sample(count: int, most: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


@dataclass(frozen=True)
class Reference:
    """Some heads of the exact result, and which ones."""

    heads: list[tuple[int, int]]
    rows: Array
    outputs: list[Array]

    def error(self, out: Array) -> float:
        """RMSE of (batch, heads, rows, columns), relative to the reference's RMS."""
        found = [np.asarray(out[b, h][self.rows], np.float64) for b, h in self.heads]
        return relative(found, self.outputs)


def relative(found: list[Array], wanted: list[Array]) -> float:
    """sqrt(sum((found - wanted)^2) / sum(wanted^2))."""
    squares = sum(float(np.sum(np.square(f - w))) for f, w in zip(found, wanted))
    return float(np.sqrt(squares / sum(float(np.sum(np.square(w))) for w in wanted)))


def _probabilities(q: Array, k: Array, rows: Array, causal: bool) -> Array:
    scores: Array = q.astype(np.float64) @ k.astype(np.float64).T / np.sqrt(q.shape[-1])
    if causal:
        scores[np.arange(k.shape[0]) > rows[:, None]] = -np.inf
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores


def forward(case: Case, given: Operands) -> Reference:
    """softmax(Q K^T / sqrt(D)) V; causal is aligned top-left."""
    everywhere = [(b, h) for b in range(case.batch) for h in range(case.heads)]
    heads = [everywhere[i] for i in _sample(len(everywhere), HEADS)]
    rows = _sample(case.rows, ROWS)
    outputs = []
    for b, h in heads:
        kv = h // case.group
        p = _probabilities(given.q[b, h][rows], given.k[b, kv], rows, case.causal)
        outputs.append(p @ given.v[b, kv].astype(np.float64))
    return Reference(heads, rows, outputs)


@dataclass(frozen=True)
class Gradients:
    """dQ, dK and dV of one head of keys, with all the query heads that share it."""

    case: Case
    dq: Array
    dk: Array
    dv: Array

    def error(self, found: tuple[Array, Array, Array]) -> float:
        """The largest of the three relative RMSE."""
        last = self.case.kv_heads - 1
        mine = [found[0][-1, last * self.case.group :], found[1][-1, last], found[2][-1, last]]
        return max(
            relative([np.asarray(f, np.float64)], [w])
            for f, w in zip(mine, (self.dq, self.dk, self.dv))
        )


def gradients(case: Case, given: Operands) -> Gradients:
    """The formulas of the backward pass, on the last head of the last batch entry."""
    if given.grad_out is None:
        raise ValueError("a training case has a gradient of the output")
    last = case.kv_heads - 1
    k, v = given.k[-1, last].astype(np.float64), given.v[-1, last].astype(np.float64)
    dq = np.empty((case.group, case.rows, case.columns))
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    scale = 1 / np.sqrt(case.columns)
    rows = np.arange(case.rows)
    for i in range(case.group):
        q = given.q[-1, last * case.group + i].astype(np.float64)
        do = given.grad_out[-1, last * case.group + i].astype(np.float64)
        p = _probabilities(q, k, rows, case.causal)
        dv += p.T @ do
        dp = do @ v.T
        dp -= (p * dp).sum(-1, keepdims=True)
        dp *= p
        dq[i] = dp @ k * scale
        dk += dp.T @ q * scale
    return Gradients(case, dq, dk, dv)
