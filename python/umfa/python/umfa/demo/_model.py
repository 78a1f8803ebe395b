"""A Llama-family language model in NumPy, read from a GGUF file.

Everything but attention is plain NumPy in float32; each attention call is handed to the
key/value cache of :mod:`umfa.demo._cache`, which decides how keys and values are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Protocol

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
                y = x[rows] + joined @ layer.attention_out.T
                normed = rms_norm(y, layer.ffn_norm, c.rms_epsilon)
                x[rows] = y + silu_product(normed @ layer.gate_up.T) @ layer.down.T

            over_rows(n, after)
            on_layer(index)
        return rms_norm(x, self.weights.final_norm, c.rms_epsilon)

    def logits(self, hidden: Array) -> Array:
        """Scores over the vocabulary ``[n, V]`` of final hidden states ``[n, E]``."""
        return np.asarray(hidden @ self.weights.output.T)


def _scalar(reader: Any, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    if field is not None:
        return field.contents()
    if default is not None:
        return default
    raise ModelError(f"the GGUF metadata has no '{key}'")


def read_config(reader: Any) -> Config:
    """Hyper-parameters of an open ``gguf.GGUFReader``."""
    architecture = _scalar(reader, "general.architecture")
    if architecture != "llama":
        raise ModelError(f"architecture '{architecture}' found, 'llama' expected")
    if reader.get_field("llama.rope.scaling.type") is not None:
        kind = _scalar(reader, "llama.rope.scaling.type")
        if kind != "none":
            raise ModelError(f"RoPE scaling '{kind}' found, none expected")
    heads = int(_scalar(reader, "llama.attention.head_count"))
    embedding = int(_scalar(reader, "llama.embedding_length"))
    head_dim = int(_scalar(reader, "llama.attention.key_length", embedding // heads))
    rotated = int(_scalar(reader, "llama.rope.dimension_count", head_dim))
    value_dim = int(_scalar(reader, "llama.attention.value_length", head_dim))
    if rotated != head_dim or value_dim != head_dim:
        raise ModelError(
            f"RoPE over {rotated} and values of {value_dim} dimensions found, "
            f"both expected equal to the head dimension {head_dim}"
        )
    return Config(
        layers=int(_scalar(reader, "llama.block_count")),
        embedding=embedding,
        heads=heads,
        kv_heads=int(_scalar(reader, "llama.attention.head_count_kv", heads)),
        head_dim=head_dim,
        context=int(_scalar(reader, "llama.context_length")),
        rms_epsilon=float(_scalar(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_base=float(_scalar(reader, "llama.rope.freq_base", 10000.0)),
    )


def read_model(reader: Any, on_tensor: Callable[[int, int], None] = lambda *_: None) -> Llama:
    """Dequantize an open ``gguf.GGUFReader`` to float32; ``on_tensor(done, total)`` as it goes."""
    from gguf.quants import dequantize

    config = read_config(reader)
    tensors = {t.name: t for t in reader.tensors}
    if "rope_freqs.weight" in tensors:
        raise ModelError("RoPE frequency factors found (rope_freqs.weight), none expected")
    done = 0

    def get(name: str) -> F32:
        nonlocal done
        if name not in tensors:
            raise ModelError(f"the GGUF file has no tensor '{name}'")
        done += 1
        on_tensor(done, len(tensors))
        tensor = tensors[name]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)

    def fused(prefix: str, *names: str) -> F32:
        return np.concatenate([get(f"{prefix}.{name}.weight") for name in names])

    layers = tuple(
        Layer(
            attention_norm=get(f"{prefix}.attn_norm.weight"),
            qkv=fused(prefix, "attn_q", "attn_k", "attn_v"),
            attention_out=get(f"{prefix}.attn_output.weight"),
            ffn_norm=get(f"{prefix}.ffn_norm.weight"),
            gate_up=fused(prefix, "ffn_gate", "ffn_up"),
            down=get(f"{prefix}.ffn_down.weight"),
        )
        for prefix in (f"blk.{i}" for i in range(config.layers))
    )
    embedding = get("token_embd.weight")
    # A model without its own output matrix ties it to the embedding.
    output = get("output.weight") if "output.weight" in tensors else embedding
    return Llama(config, Weights(embedding, layers, get("output_norm.weight"), output))


def open_gguf(path: Path) -> Any:
    """A ``gguf.GGUFReader`` over ``path``; :class:`ModelError` if it isn't a GGUF file."""
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"cannot read '{path}' as GGUF: {error}") from error
