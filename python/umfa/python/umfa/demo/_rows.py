"""NumPy work on rows that don't depend on each other, dealt to threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

T = TypeVar("T")

# Rows dealt at a time: those of a feed-forward layer of 2 x 1,536 floats take 3 MB, and stay in
# cache; those of logits over 49,152 tokens 50 MB.
_CHUNK = 256


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep BLAS from using threads of its own.

    They spin for milliseconds after each product, which takes the cores from the attention that
    is being timed, and slows products down several times on a machine that is busy.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def over_rows(count: int, work: Callable[[slice], T]) -> list[T]:
    """``work`` on consecutive slices of ``count`` rows, in parallel; results in their order."""
    chunk = max(1, min(_CHUNK, -(-count // _threads())))
    slices = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    if len(slices) == 1 or count < _threads() * 8:  # a step of decoding: not worth a hand-over
        return [work(slice(0, count))]
    return list(_pool().map(work, slices))


@cache
def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="umfa-demo")
