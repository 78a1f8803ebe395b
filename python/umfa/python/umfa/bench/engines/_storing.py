"""Quantizes, dequantizes and appends, as callers do; floats are stored by NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import umfa
from umfa.bench.cases import APPEND, QUANTIZE, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.engines._memory import PlainMemory
from umfa.bench.modes import COPY, TENSORS, Stored


def prepare(
    case: Case, storage: str, given: Array, context: umfa.MFAContext, memory: PlainMemory
) -> Prepared:
    """One of the kinds `cases.STORING`, on FP32 keys."""
    if storage == COPY:
        return memory.copy(given, np.empty_like(given))
    stored = TENSORS[storage]
    if case.kind == APPEND:
        return _append(stored, given, context)
    if stored.mode.precision is None:
        floats = given.astype(stored.mode.dtype)
        if case.kind == QUANTIZE:
            return memory.copy(given, floats)
        return memory.copy(floats, np.empty_like(given))
    tensor = umfa.quantize(given, context=context, **stored.keywords)
    moved = given.nbytes + nbytes(tensor)
    found: list[Any] = [None]
    if case.kind == QUANTIZE:

        def run() -> None:
            found[0] = umfa.quantize(given, context=context, **stored.keywords)

        return Prepared(run, lambda: found[0].dequantize(), bytes=moved)

    def restore() -> None:
        found[0] = tensor.dequantize(context=context)

    return Prepared(restore, lambda: found[0], bytes=moved)


def _append(stored: Stored, given: Array, context: umfa.MFAContext) -> Prepared:
    """Writes the first rows to one place of a full cache after the other."""
    rows, keys = stored.rows_at_once, given.shape[2]
    if keys < rows:
        raise Refused(f"a cache of {keys} rows, expected at least the {rows} that share scales")
    new = np.ascontiguousarray(given[:, :, :rows])
    places = itertools.cycle([slice(n, n + rows) for n in range(0, keys - rows + 1, rows)])
    last = [slice(0, rows)]
    write: Callable[[slice], object]
    if stored.mode.precision is None:
        cache: Any = given.astype(stored.mode.dtype)

        def write(at: slice) -> None:
            cache[:, :, at] = new

        def output() -> Any:
            return cache[:, :, last[0]]

    else:
        cache = umfa.quantize(given, context=context, **stored.keywords)

        def write(at: slice) -> None:
            umfa.quantize(new, out=cache[:, :, at], context=context)

        def output() -> Any:
            return cache[:, :, last[0]].dequantize()

    def run() -> None:
        last[0] = next(places)
        write(last[0])

    moved = new.nbytes // rows + nbytes(cache) // keys
    return Prepared(run, output, bytes=moved, parts=rows)


def nbytes(operand: Any) -> int:
    """Bytes of an array, or of the integers, scales, zero points and means of a tensor."""
    if not isinstance(operand, umfa.QuantizedTensor):
        return int(operand.nbytes)
    arrays = (operand.data, operand.scale, operand.zero_point, operand.mean)
    return sum(int(array.nbytes) for array in arrays if array is not None)
