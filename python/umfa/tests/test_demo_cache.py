"""The demo's key/value caches: stored right, read in place, joined right, counted right."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from demo_support import SimulatedEngine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from umfa.demo._cache import BlockStore, KvCache, QuantizedStore, Stopwatch, make_store
from umfa.demo._engine import Format, Quantized
from umfa.demo._modes import MODES, RECENT, Mode

HEADS, DIM = 2, 64
BY_NAME = {mode.name: mode for mode in MODES}
KEYS = next(mode.k for mode in MODES if mode.k and mode.k.granularity == "channel")
BLOCK = KEYS.block_rows

Array = npt.NDArray[Any]


def rows(count: int, heads: int = HEADS, seed: int = 0) -> Array:
    """Distinct heads, and an outlier column as keys have them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, heads, count, DIM)) + np.arange(heads)[:, None, None]
    x[..., 3] *= 8
    return x.astype(np.float32)


def stored(store: Any) -> Array:
    bounds = store.bounds()
    views = [store.view(a, b) for a, b in itertools.pairwise(bounds)]
    floats = [view if isinstance(view, np.ndarray) else view.dequantize() for view in views]
    return np.concatenate(floats, axis=2)


def new_cache(mode: Mode, capacity: int) -> KvCache:
    return KvCache(SimulatedEngine(), mode, HEADS, DIM, capacity, Stopwatch())


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@settings(deadline=None, max_examples=15)
@given(chunks=st.lists(st.integers(1, 80), min_size=1, max_size=5), seed=st.integers(0, 99))
@example(chunks=[1, 72, 23, 13, 24], seed=33)  # values much larger than those of the last chunk
def test_attention_is_that_of_the_stored_rows(mode: Mode, chunks: list[int], seed: int) -> None:
    """However the sequence arrives, each query attends to exactly the rows up to its own."""
    engine = SimulatedEngine()
    cache = new_cache(mode, sum(chunks))
    sequence = [rows(sum(chunks), heads, seed + i) for i, heads in enumerate((3 * HEADS, 2, 2))]
    # Parts are joined by float32 logsumexps, whose rounding grows with the scores: keep them small.
    sequence[0] *= np.float32(0.1)
    end = 0
    for count in chunks:
        start, end = end, end + count
        q, k, v = (x[:, :, start:end] for x in sequence)
        found = cache.attend(q, k, v)
        query = q if mode.q is None else engine.quantize(q, mode.q)
        values = stored(cache._v)
        expected, _ = engine.attention(query, stored(cache._k), values, causal=True)
        assert np.abs(found - expected).max() <= 4e-6 * np.abs(values).max()


@settings(deadline=None, max_examples=15)
@given(chunks=st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=6))
def test_blocks_are_made_once_and_whole(chunks: list[int]) -> None:
    engine = SimulatedEngine()
    store = BlockStore(engine, KEYS, DIM, sum(chunks))
    x = rows(sum(chunks))
    end = 0
    earlier = np.empty((1, HEADS, 0, DIM), np.float32)
    for count in chunks:
        start, end = end, end + count
        store.append(x[:, :, start:end])
        assert store.rows == end
        whole = end - end % BLOCK
        assert store.bounds() == tuple(sorted({0, whole, end}))
        blocks = stored(store)[:, :, :whole]
        np.testing.assert_array_equal(blocks[:, :, : earlier.shape[2]], earlier)
        earlier = blocks
    assert np.abs(stored(store) - x).max() <= np.ptp(x) / 15


def test_rows_that_arrive_together_are_quantized_as_if_alone() -> None:
    for form in (BY_NAME["int8_kv"].k, BY_NAME["int4_kv"].v):
        together, alone = (make_store(SimulatedEngine(), form, HEADS, DIM, 40) for _ in "ab")
        x = rows(40)
        together.append(x)
        for i in range(40):
            alone.append(x[:, :, i : i + 1])
        np.testing.assert_array_equal(stored(together), stored(alone))


@pytest.mark.parametrize("form", [RECENT, KEYS, BY_NAME["int4_kv"].v])
def test_views_are_not_copies(form: Format) -> None:
    store = QuantizedStore(SimulatedEngine(), form, DIM, 3 * BLOCK)
    store.append(rows(BLOCK))
    before = store.view(0, BLOCK)
    store.append(rows(BLOCK, seed=1))
    after: Quantized = store.view(0, 2 * BLOCK)
    assert np.shares_memory(before.data, after.data)
    assert np.shares_memory(before.scale, after.scale)
    if before.zero_point is not None and after.zero_point is not None:
        assert np.shares_memory(before.zero_point, after.zero_point)
        # The contract gives zero points no strides of their own.
        scale, zero_point = (
            np.array(a.strides) // a.itemsize for a in (after.scale, after.zero_point)
        )
        np.testing.assert_array_equal(scale, zero_point)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32 + 32),
        ("int8_kv", 2 * (8 + 16 / DIM)),
        ("int8", 2 * (8 + 16 / DIM)),
        # Keys: FP16 scale and INT8 zero point per column of a block; values: per 32 columns.
        ("int4_kv", (4 + 24 / BLOCK) + (4 + 24 / 32)),
    ],
)
def test_bytes_count_everything(name: str, bits: float) -> None:
    count = 4 * BLOCK
    cache = new_cache(BY_NAME[name], 2 * count)
    cache.attend(rows(count, 3 * HEADS), rows(count), rows(count))
    assert cache.nbytes == HEADS * count * DIM * bits / 8
    share = bits / 64
    assert share <= {"fp32": 1, "int8_kv": 0.27, "int8": 0.27, "int4_kv": 0.15}[name]


def test_bytes_of_recent_rows() -> None:
    store = BlockStore(SimulatedEngine(), KEYS, DIM, 2 * BLOCK)
    store.append(rows(3))
    assert store.nbytes == HEADS * 3 * (DIM + 2)


def test_reading_an_empty_store_is_an_error() -> None:
    with pytest.raises(IndexError, match="no row"):
        QuantizedStore(SimulatedEngine(), RECENT, DIM, 4).view(0, 1)


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    cache = KvCache(SimulatedEngine(), MODES[0], HEADS, DIM, 8, watch)
    cache.attend(rows(4, 3 * HEADS), rows(4), rows(4))
    first = watch.seconds
    cache.attend(rows(4, 3 * HEADS), rows(4), rows(4))
    assert 0 < first < watch.seconds
