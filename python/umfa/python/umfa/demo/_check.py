"""FP32 attention against float64 attention, inside the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._cache import KvCache, Stopwatch
from ._engine import F32, Array, Engine
from ._model import Llama
from ._modes import MODES


class _Double:
    """Attention of float64 on the CPU as a layer's cache, for a sequence that comes all at once.

    It is computed by plain loops, which the conformance reference checks.
    """

    def __init__(self, context: Any) -> None:
        self._context = context

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        import umfa

        out: Array = umfa.attention(q, k, v, self._context, causal=True, alignment="bottom_right")
        return out


class _Single:
    """The engine's attention as a layer's cache: float32 in the midst of a float64 model."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache

    def attend(self, q: Array, k: Array, v: Array) -> F32:
        return self._cache.attend(*(x.astype(np.float32) for x in (q, k, v)))


def largest_logit_difference(
    model: Llama, engine: Engine, tokens: Array, on_layer: Callable[[], None]
) -> float:
    """Between FP32 attention of ``engine`` and float64 attention, over all of ``tokens``.

    The rest of the model runs in float64. In float32 its own rounding would be most of the
    difference: one attention output moved by 1e-7 then changes some logit by more than 5e-5.
    """
    import umfa

    c = model.config
    single = [
        _Single(KvCache(engine, MODES[0], c.kv_heads, c.head_dim, len(tokens), Stopwatch()))
        for _ in range(c.layers)
    ]
    with umfa.MFAContext(device="cpu") as context:
        logits = [
            model.logits(model.forward(tokens, 0, caches, lambda _: on_layer(), np.float64))
            for caches in (single, [_Double(context)] * c.layers)
        ]
    return float(np.abs(logits[0] - logits[1]).max())
