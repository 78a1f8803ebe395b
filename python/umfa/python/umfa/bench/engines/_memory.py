"""Plain reads, copies and conversions by NumPy: what this machine's memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from umfa.bench.engines import Array, Prepared


class PlainMemory:
    """Passes over arrays, in one piece for each thread."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def read(self, arrays: Sequence[Array]) -> Prepared:
        """Loads every element once: the largest one, of the bits taken as integers."""
        pieces = zip(*[self._pieces(array.view(np.int32)) for array in arrays])
        shares = [[piece.max for piece in share] for share in pieces]

        def read(share: list[Callable[[], object]]) -> None:
            for largest in share:
                largest()

        def run() -> None:
            list(self._pool.map(read, shares))

        return Prepared(run, None, bytes=sum(array.nbytes for array in arrays))

    def copy(self, given: Array, out: Array) -> Prepared:
        """Copies, and converts where the dtypes differ."""
        pieces = list(zip(self._pieces(out), self._pieces(given)))

        def copy(pair: tuple[Array, Array]) -> None:
            np.copyto(*pair, casting="same_kind")

        def run() -> None:
            list(self._pool.map(copy, pieces))

        return Prepared(run, lambda: out, bytes=given.nbytes + out.nbytes)

    def _pieces(self, array: Array) -> list[Array]:
        return np.array_split(array.reshape(-1), self._threads)
