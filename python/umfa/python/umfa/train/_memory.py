"""How much the process grows while something runs."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

import psutil

_INTERVAL = 0.002


class PeakMemory:
    """Growth of the resident set inside a ``with`` block, in ``bytes`` at its end.

    The resident set is read every 2 ms by another thread, and compared with what it was at the
    start. Freed memory that the C library still holds would hide the growth; where it is glibc, it
    is given back first.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        release_free_memory()
        self._start = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, name="umfa-train-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss - self._start)


def release_free_memory() -> None:
    """Hand what is free in the heap back to the system, as far as that can be asked for."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
