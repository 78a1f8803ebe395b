"""Row-wise work on threads, and the study of cache formats that is made of it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from demo_support import SimulatedEngine, write_tiny_model

from umfa.demo import _rows as rows
from umfa.demo._gguf import open_gguf, read_model
from umfa.demo._modes import MODES
from umfa.demo.study import CANDIDATES, study


@pytest.mark.parametrize("count", [1, 15, 16, 17, 511, 512, 513, 2000])
def test_every_row_once_in_order(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(rows, "_threads", lambda: 2)
    slices = rows.over_rows(count, lambda part: part)
    covered = np.concatenate([np.arange(count)[part] for part in slices])
    np.testing.assert_array_equal(covered, np.arange(count))
    assert max(part.stop - part.start for part in slices) <= 256
    assert (len(slices) == 1) == (count < 16)


def test_threads_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_threads", lambda: 2)
    rows._pool.cache_clear()
    meeting = threading.Barrier(2, timeout=20)
    rows.over_rows(64, lambda _: meeting.wait())
    rows._pool.cache_clear()


def test_errors_reach_the_caller() -> None:
    def fail(_: slice) -> None:
        raise ValueError("no")

    for count in (1, 5000):
        with pytest.raises(ValueError, match="no"):
            rows.over_rows(count, fail)


def test_blas_is_given_back() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with rows.single_threaded_blas():
            assert set(threads()) <= {1}
        assert threads() == before


def test_study(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf")
    model = read_model(open_gguf(tmp_path / "tiny.gguf"))
    tokens = np.random.default_rng(3).integers(0, 256, (2, 64))
    results = study(model, SimulatedEngine(), list(tokens), (MODES[0], *CANDIDATES))
    assert list(results) == ["FP32", *(mode.title for mode in CANDIDATES)]
    bits, losses = results.pop("FP32")
    assert bits == 32
    assert [(loss.perplexity, loss.divergence) for loss in losses] == [(0, 0)] * 2
    for bits, losses in results.values():
        assert bits < 32
        assert min(loss.divergence for loss in losses) > 0
    by_title = {
        title: max(loss.divergence for loss in found[1]) for title, found in results.items()
    }
    assert by_title["INT8 K/V: row"] < by_title["INT4 K: groups of 32"]
