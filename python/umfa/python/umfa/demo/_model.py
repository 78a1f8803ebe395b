"""A Llama-family language model in NumPy.

Everything but attention is plain NumPy in float32; each attention call is handed to the
key/value cache of :mod:`umfa.demo._cache`, which decides how keys and values are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ._rows import over_rows

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]


class ModelError(ValueError):
    """The file is not a model that this demo can run."""


class LayerCache(Protocol):
    """Keys and values of one layer, and attention over them."""

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        """Append ``k``, ``v`` ``[1, Hkv, n, D]``; return attention of ``q`` ``[1, Hq, n, D]``."""
        ...


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, named as in the GGUF metadata ``<architecture>.*``."""

    layers: int
    embedding: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rms_epsilon: float
    rope_base: float


@dataclass(frozen=True)
class Layer:
    """Weights of one block, ``[out, in]``; projections that read the same input are fused."""

    attention_norm: F32
    qkv: F32
    attention_out: F32
    ffn_norm: F32
    gate_up: F32
    down: F32


@dataclass(frozen=True)
class Weights:
    embedding: F32
    layers: tuple[Layer, ...]
    final_norm: F32
    output: F32


def rms_norm(x: Array, weight: F32, epsilon: float) -> Array:
    """Root-mean-square norm along the last axis: x / sqrt(mean(x²) + ε) · weight."""
    mean_square = np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1]
    return np.asarray(x / np.sqrt(mean_square + epsilon) * weight)


def rope_table(positions: npt.NDArray[np.int64], head_dim: int, base: float) -> Array:
    """exp(i · position · base^(-2j/D)) as complex128 ``[n, D/2]``.

    A float32 angle would be wrong by 2e-4 at position 8000.
    """
    frequency = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return np.asarray(np.exp(1j * positions[:, None] * frequency))


def apply_rope(x: Array, table: Array) -> Array:
    """Rotate pairs (2j, 2j+1) of ``x`` ``[n, H, D]``.

    GGUF converters permute the rows of Llama's query and key projections so that a rotated pair
    is adjacent; a pair is then one complex number and the rotation one product.
    """
    pairs = np.ascontiguousarray(x).view(table.dtype)
    return np.asarray((pairs * table[:, None, :]).view(x.dtype))


def silu_product(gate_up: Array) -> Array:
    """SiLU(gate) · up, for ``gate_up`` = [gate | up] along the last axis."""
    gate, up = np.split(gate_up, 2, axis=-1)
    with np.errstate(over="ignore"):  # exp(-gate) → ∞ gives the right limit, 0
        return np.asarray(gate / (1 + np.exp(-gate)) * up)


@dataclass(frozen=True)
class Llama:
    """The forward pass; holds no state between calls (the caches do)."""

    config: Config
    weights: Weights

    def forward(
        self,
        tokens: npt.NDArray[np.int64],
        start: int,
        caches: Sequence[LayerCache],
        on_layer: Callable[[int], None] = lambda _: None,
        precision: type[np.floating[Any]] = np.float32,
    ) -> Array:
        """Final hidden states ``[n, E]`` (after the last norm) of ``tokens`` at ``start``….

        ``on_layer(i)`` is called after each layer, for a progress bar. Everything is computed in
        ``precision``, which the caches are handed and which the hidden states have.
        """
        c = self.config
        n, width = len(tokens), c.head_dim
        table = rope_table(np.arange(start, start + n), width, c.rope_base)
        table = table.astype(np.result_type(precision, np.complex64))
        x = self.weights.embedding[tokens].astype(precision)
        heads = (c.heads, c.heads + c.kv_heads)  # where keys, and values, start among all heads
        qkv = np.empty((n, c.heads + 2 * c.kv_heads, width), precision)
        for index, (layer, cache) in enumerate(zip(self.weights.layers, caches)):

            def before(rows: slice, layer: Layer = layer) -> None:
                normed = rms_norm(x[rows], layer.attention_norm, c.rms_epsilon)
                qkv[rows] = (normed @ layer.qkv.T).reshape(-1, *qkv.shape[1:])
                qkv[rows, : heads[1]] = apply_rope(qkv[rows, : heads[1]], table[rows])

            over_rows(n, before)
            # [n, H, D] → [1, H, n, D] as views: attention reads them through their strides.
            q, k, v = (part.transpose(1, 0, 2)[None] for part in np.split(qkv, heads, axis=1))
            attended = cache.attend(q, k, v)[0].transpose(1, 0, 2)

            def after(rows: slice, layer: Layer = layer, attended: Array = attended) -> None:
                joined = attended[rows].reshape(-1, c.heads * width)
                with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                    y = x[rows] + joined @ layer.attention_out.T
                    normed = rms_norm(y, layer.ffn_norm, c.rms_epsilon)
                    x[rows] = y + silu_product(normed @ layer.gate_up.T) @ layer.down.T

            over_rows(n, after)
            if not np.isfinite(x).all():
                raise ModelError(
                    f"the model's layer {index} gives NaN or infinity in "
                    f"{np.dtype(precision).name}, numbers expected"
                )
            on_layer(index)
        return rms_norm(x, self.weights.final_norm, c.rms_epsilon)

    def logits(self, hidden: Array) -> Array:
        """Scores over the vocabulary ``[n, V]`` of final hidden states ``[n, E]``."""
        return np.asarray(hidden @ self.weights.output.T)
