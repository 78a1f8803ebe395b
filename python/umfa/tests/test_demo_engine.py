"""umfa itself behind the demo's interface, against its simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from demo_support import SimulatedEngine

from umfa.demo._app import umfa_engine
from umfa.demo._cache import KvCache, Stopwatch
from umfa.demo._engine import Engine, Format
from umfa.demo._modes import MODES, Mode
from umfa.demo.study import CANDIDATES

FORMATS = sorted(
    {form for mode in (*MODES, *CANDIDATES) for form in (mode.q, mode.k, mode.v) if form},
    key=str,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with umfa_engine("cpu") as engine:
        yield engine


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_quantization_is_the_simulated_one(engine: Engine, form: Format) -> None:
    random = np.random.default_rng(5)
    x = (random.standard_normal((1, 70, 3, 64)) + 0.5).astype(np.float32).swapaxes(1, 2)
    found, expected = engine.quantize(x, form), SimulatedEngine().quantize(x, form)
    for name in ("scale", "zero_point"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    # A rotation in float32 may put a number on the other side of a rounding boundary.
    steps = np.abs(found.dequantize() - expected.dequantize()).max() / found.scale.max()
    assert np.mean(found.data != expected.data) < (1e-3 if form.rotate else 1e-9)
    assert steps <= 1


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_attention_over_a_growing_cache(engine: Engine, mode: Mode) -> None:
    random = np.random.default_rng(6)
    caches = [KvCache(e, mode, 2, 64, 80, Stopwatch()) for e in (engine, SimulatedEngine())]
    for count in (45, 1, 1, 20, 1):
        q, k, v = (
            random.standard_normal((1, count, heads, 64)).astype(np.float32).swapaxes(1, 2)
            for heads in (6, 2, 2)
        )
        found, expected = (cache.attend(q, k, v) for cache in caches)
        # DESIGN: within 2e-4 of attention on the dequantized operands, relative RMSE.
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        assert error <= (1e-6 if mode.name == "fp32" else 2e-4)
    assert caches[0].nbytes == caches[1].nbytes
