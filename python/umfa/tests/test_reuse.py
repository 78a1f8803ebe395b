"""Memory of dropped results is used again, and never while somebody holds it."""

from __future__ import annotations

import threading

import numpy as np

import umfa

ROWS = 1024


def _operand(value: float) -> np.ndarray:
    return np.full((1, 8, ROWS, 64), value, np.float32)


def test_results_that_live_keep_their_values() -> None:
    """The output is V where all rows of V are alike."""
    q = _operand(0.0)
    results = []
    for value in range(20):
        results.append((value, umfa.attention(q, q, _operand(value))))
        # Some are dropped, and a view keeps the memory of one whose array is dropped.
        if value % 3 == 2:
            results.pop(value % len(results))
        if value % 4 == 3:
            kept, array = results.pop()
            results.append((kept, array[0, 3, 5:]))
    assert len(results) > 10
    for value, array in results:
        assert (array == value).all()


def test_a_dropped_result_leaves_its_memory_to_the_next() -> None:
    """Results of other sizes and dtypes as well, if they are not much smaller."""
    q = _operand(0.5)
    first = umfa.attention(q, q, q)
    address = first.ctypes.data
    del first
    assert umfa.attention(q, q, q).ctypes.data == address


def test_from_many_threads() -> None:
    """Threads that drop and take memory at the same time never get the same."""
    q = _operand(0.0)
    wrong = []

    def work(value: int) -> None:
        for _ in range(10):
            array = umfa.attention(q, q, _operand(value))
            if not (array == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
