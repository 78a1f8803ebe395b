"""FP32 attention against the plain formula, inside the whole model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._cache import KvCache, Stopwatch
from ._engine import F32, Array, Engine
from ._model import Llama
from ._modes import MODES


def plain_attention(q: Array, k: Array, v: Array, *, causal: bool) -> tuple[Array, Array]:
    """softmax(Q Kᵀ / √D) V and its logsumexp, written out, in the operands' own precision.

    Query heads may be a multiple of key/value heads; ``causal`` aligns the last rows.
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q @ k.swapaxes(-1, -2) * q.dtype.type(q.shape[-1] ** -0.5)
    if causal:
        rows, columns = scores.shape[-2:]
        scores[..., ~np.tri(rows, columns, columns - rows, dtype=bool)] = -np.inf
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    return weights @ v / total, (top + np.log(total))[..., 0]


class _Plain:
    """The plain formula as a layer's cache, for a sequence that comes all at once."""

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        return plain_attention(q, k, v, causal=True)[0]


class _Single:
    """The engine's attention as a layer's cache: float32 in the midst of a float64 model."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache

    def attend(self, q: Array, k: Array, v: Array) -> F32:
        return self._cache.attend(*(x.astype(np.float32) for x in (q, k, v)))


def largest_logit_difference(
    model: Llama, engine: Engine, tokens: Array, on_layer: Callable[[], None]
) -> float:
    """Between FP32 attention of ``engine`` and plain NumPy attention, over all of ``tokens``.

    The rest of the model runs in float64. In float32 its own rounding would be most of what is
    seen: one attention output moved by 1e-7 then changes some logit by more than 5e-5.
    """
    c = model.config
    single = [
        _Single(KvCache(engine, MODES[0], c.kv_heads, c.head_dim, len(tokens), Stopwatch()))
        for _ in range(c.layers)
    ]
    logits = [
        model.logits(model.forward(tokens, 0, caches, lambda _: on_layer(), np.float64))
        for caches in (single, [_Plain()] * c.layers)
    ]
    return float(np.abs(logits[0] - logits[1]).max())
