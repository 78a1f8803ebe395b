"""Sequences of their own lengths as one packed problem, which is what the reference knows.

A batch whose sequences have key lengths, and packed rows with spare ones after them, are the same
problem with the rows that count one after the other; the others must come out as nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from description import Call
from reference.problem import Operand, Options


@dataclass(frozen=True)
class Places:
    """Where packed rows are in [batch, heads, rows, columns]."""

    batch: np.ndarray
    row: np.ndarray

    def take(self, x: np.ndarray) -> np.ndarray:
        """The rows that count: [1, heads, rows that count, columns]."""
        return x[self.batch, :, self.row].swapaxes(0, 1)[None]

    def others(self, x: np.ndarray) -> np.ndarray:
        """The rows that do not."""
        counts = np.zeros((x.shape[0], x.shape[2]), bool)
        counts[self.batch, self.row] = True
        return x.swapaxes(1, 2)[~counts]

    def operand(self, x: Operand) -> Operand:
        parts = ("values", "inside", "row_scale", "single", "deviation")
        taken = {name: getattr(x, name) for name in parts}
        return replace(
            x, **{name: None if part is None else self.take(part) for name, part in taken.items()}
        )


@dataclass(frozen=True)
class Packing:
    lengths: list[tuple[int, int]]
    rows: Places
    keys: Places

    def options(self, options: Options) -> Options:
        return replace(options, lengths=self.lengths)

    def seen(self, visible: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """[batch, key heads, keys]: whether any row sees a key. `visible` is of the packed problem."""
        batch, kv_heads, keys = shape
        _, heads, rows, packed = visible.shape
        by_group = visible.reshape(kv_heads, heads // max(kv_heads, 1), rows, packed)
        result = np.zeros((batch, kv_heads, keys), bool)
        result[self.keys.batch, :, self.keys.row] = by_group.any(axis=(1, 2)).T
        return result


def places(starts: list[tuple[int, int, int]]) -> Places:
    """Of (batch, first row, rows) for each sequence."""
    batch = np.concatenate([np.full(n, b) for b, _, n in starts] or [np.zeros(0)])
    row = np.concatenate([first + np.arange(n) for _, first, n in starts] or [np.zeros(0)])
    return Places(batch.astype(np.intp), row.astype(np.intp))


def packing(call: Call, batch: int) -> Packing | None:
    """How a call's sequences are packed; None for a plain batch."""
    if call.lengths is None and (call.key_lengths is None or batch == 0):
        return None
    if call.lengths is not None:
        ends = np.cumsum([(0, 0), *call.lengths], axis=0)
        starts = [(0, int(q), int(k)) for q, k in ends[:-1]]
        lengths = list(call.lengths)
    else:
        starts = [(b, 0, 0) for b in range(batch)]
        lengths = [(call.rows, call.keys)] * batch
    if call.key_lengths is not None:
        lengths = [(q, n) for (q, _), n in zip(lengths, call.key_lengths)]
    rows = places([(b, q, n) for (b, q, _), (n, _) in zip(starts, lengths)])
    keys = places([(b, k, n) for (b, _, k), (_, n) in zip(starts, lengths)])
    return Packing(lengths, rows, keys)
