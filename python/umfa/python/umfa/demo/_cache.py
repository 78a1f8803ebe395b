"""Key/value caches that stay quantized while they grow.

Every buffer is allocated once, at its full capacity; attention reads views of it, and a decoding
step writes one row.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ._engine import F32, Array, Engine, Format, Operand, Parts, Quantized
from ._modes import RECENT, Mode


class Store(Protocol):
    """Rows ``[1, H, n, D]`` of keys or values, appended and read back as operands."""

    @property
    def rows(self) -> int: ...
    def append(self, x: F32) -> None: ...
    def bounds(self) -> tuple[int, ...]:
        """Row numbers between which one operand can hold all rows: 0, …, ``rows``."""
        ...

    def view(self, start: int, stop: int) -> Operand: ...
    @property
    def nbytes(self) -> int:
        """Bytes that the rows held now occupy, scales and zero points included."""
        ...


class FloatStore:
    """float32 rows."""

    def __init__(self, heads: int, head_dim: int, capacity: int) -> None:
        self.rows = 0
        self._buffer = np.empty((1, heads, capacity, head_dim), np.float32)

    def append(self, x: F32) -> None:
        self._buffer[:, :, self.rows : self.rows + x.shape[2]] = x
        self.rows += x.shape[2]

    def bounds(self) -> tuple[int, ...]:
        return (0, self.rows)

    def view(self, start: int, stop: int) -> Operand:
        return self._buffer[:, :, start:stop]

    @property
    def nbytes(self) -> int:
        return self._buffer[:, :, : self.rows].nbytes


class QuantizedStore:
    """Quantized rows; with granularity ``"channel"``, appended in whole blocks of rows."""

    def __init__(self, engine: Engine, form: Format, head_dim: int, capacity: int) -> None:
        self.rows = 0
        self._engine, self._form = engine, form
        self._head_dim, self._capacity = head_dim, capacity
        # Rows that share an entry of axis 2 of the scales.
        self._step = form.block_rows if form.granularity == "channel" else 1
        self._parts: Parts | None = None

    def append(self, x: F32) -> None:
        part = self._engine.quantize(x, self._form)
        slots = -(-self._capacity // self._step)
        if self._parts is None:
            self._parts = Parts(
                _like(part.data, self._capacity),
                _like(part.scale, slots),
                None if part.zero_point is None else _like(part.zero_point, slots),
            )
        self._write(self._parts.data, part.data, self.rows)
        self._write(self._parts.scale, part.scale, self.rows // self._step)
        if self._parts.zero_point is not None and part.zero_point is not None:
            self._write(self._parts.zero_point, part.zero_point, self.rows // self._step)
        self.rows += x.shape[2]

    @staticmethod
    def _write(buffer: Array, part: Array, start: int) -> None:
        buffer[:, :, start : start + part.shape[2]] = part

    def bounds(self) -> tuple[int, ...]:
        return (0, self.rows)

    def view(self, start: int, stop: int) -> Quantized:
        return self._engine.assemble(self._form, self._slice(start, stop), self._head_dim)

    def take(self) -> F32:
        """Remove all rows, and return them in float32."""
        rows = self.view(0, self.rows).dequantize()
        self.rows = 0
        return rows

    def _slice(self, start: int, stop: int) -> Parts:
        if self._parts is None:
            raise IndexError("no row has been stored yet")
        slots = slice(start // self._step, -(-stop // self._step))
        zero_point = self._parts.zero_point
        return Parts(
            self._parts.data[:, :, start:stop],
            self._parts.scale[:, :, slots],
            None if zero_point is None else zero_point[:, :, slots],
        )

    @property
    def nbytes(self) -> int:
        if self.rows == 0:
            return 0
        held = self._slice(0, self.rows)
        arrays = (held.data, held.scale, held.zero_point)
        return sum(array.nbytes for array in arrays if array is not None)


class BlockStore:
    """Whole blocks quantized per channel, and after them fewer than a block of INT8 rows.

    A channel's scale needs the whole block, which decoding has only one row at a time.
    """

    def __init__(self, engine: Engine, form: Format, head_dim: int, capacity: int) -> None:
        self._block = form.block_rows
        self._blocks = QuantizedStore(engine, form, head_dim, capacity)
        self._recent = QuantizedStore(engine, RECENT, head_dim, self._block)

    @property
    def rows(self) -> int:
        return self._blocks.rows + self._recent.rows

    def append(self, x: F32) -> None:
        pending = self._recent.rows + x.shape[2]
        whole = pending - pending % self._block
        taken = max(0, whole - self._recent.rows)  # rows of x that end up in whole blocks
        if whole:
            finished = [self._recent.take()] if self._recent.rows else []
            self._blocks.append(np.concatenate([*finished, x[:, :, :taken]], axis=2))
        if taken < x.shape[2]:
            self._recent.append(x[:, :, taken:])

    def bounds(self) -> tuple[int, ...]:
        return tuple(sorted({0, self._blocks.rows, self.rows}))

    def view(self, start: int, stop: int) -> Quantized:
        split = self._blocks.rows
        if start < split:
            return self._blocks.view(start, stop)
        return self._recent.view(start - split, stop - split)

    @property
    def nbytes(self) -> int:
        return self._blocks.nbytes + self._recent.nbytes


def _like(part: Array, rows: int) -> Array:
    return np.empty((*part.shape[:2], rows, *part.shape[3:]), part.dtype)


def make_store(
    engine: Engine, form: Format | None, heads: int, head_dim: int, capacity: int
) -> Store:
    if form is None:
        return FloatStore(heads, head_dim, capacity)
    if form.granularity == "channel":
        return BlockStore(engine, form, head_dim, capacity)
    return QuantizedStore(engine, form, head_dim, capacity)


class Stopwatch:
    """Seconds spent in attention, quantizing its operands included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start


class KvCache:
    """One layer's keys and values in the formats of ``mode``."""

    def __init__(
        self,
        engine: Engine,
        mode: Mode,
        heads: int,
        head_dim: int,
        capacity: int,
        watch: Stopwatch,
    ) -> None:
        self._engine, self._mode, self._watch = engine, mode, watch
        self._k = make_store(engine, mode.k, heads, head_dim, capacity)
        self._v = make_store(engine, mode.v, heads, head_dim, capacity)

    @property
    def nbytes(self) -> int:
        return self._k.nbytes + self._v.nbytes

    def attend(self, q: F32, k: F32, v: F32) -> F32:
        with self._watch:
            self._k.append(k)
            self._v.append(v)
            return self._attention(q)

    def _attention(self, q: F32) -> F32:
        start = self._k.rows - q.shape[2]  # position of the first query
        bounds = sorted({*self._k.bounds(), *self._v.bounds()})
        segments = list(itertools.pairwise(bounds))
        if len(segments) == 1:
            return self._call(q, *segments[0], causal=q.shape[2] > 1)[0]
        # Queries inside a segment see it causally, later ones see all of it; the parts of a row's
        # softmax are then joined by their logsumexp.
        parts = [
            (rows, *self._call(q[:, :, rows], first, last, causal=inside))
            for first, last in segments
            for inside, rows in _visible(start, q.shape[2], first, last)
        ]
        edges = sorted({edge for rows, *_ in parts for edge in (rows.start, rows.stop)})
        joined = []
        for begin, end in itertools.pairwise(edges):
            # All rows between two edges have the same parts.
            outputs, logsumexps = [], []
            for rows, out, logsumexp in parts:
                if rows.start <= begin < rows.stop:
                    own = slice(begin - rows.start, end - rows.start)
                    outputs.append(out[:, :, own])
                    logsumexps.append(logsumexp[:, :, own])
            joined.append(self._engine.merge(outputs, logsumexps))
        return joined[0] if len(joined) == 1 else np.concatenate(joined, axis=2)

    def _call(self, q: F32, first: int, last: int, *, causal: bool) -> tuple[F32, F32]:
        form = self._mode.q
        query: Operand = q if form is None else self._engine.quantize(q, form)
        k, v = self._k.view(first, last), self._v.view(first, last)
        return self._engine.attention(query, k, v, causal=causal)


def _visible(start: int, count: int, first: int, last: int) -> Iterator[tuple[bool, slice]]:
    """Query rows at ``start``… that see keys ``first:last``: (only causally?, rows)."""
    begin, end = max(first - start, 0), min(max(last - start, 0), count)
    if begin < end:
        yield True, slice(begin, end)
    if end < count:
        yield False, slice(end, count)
