"""Helpers of the demo's tests: umfa simulated in NumPy, and a tiny model in a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
from threadpoolctl import threadpool_limits

from umfa.demo._engine import F32, Array, Format, Operand, Parts, Quantized

# The products of these tests are so small that threads would only spin.
threadpool_limits(1, user_api="blas")


def hadamard(size: int) -> npt.NDArray[np.float64]:
    """Block-diagonal orthonormal Sylvester matrices over the largest power of two in ``size``."""
    block = np.ones((1, 1))
    while len(block) < size & -size:
        block = np.block([[block, block], [block, -block]])
    return np.kron(np.eye(size // len(block)), block / np.sqrt(len(block)))


@dataclass(frozen=True)
class SimulatedTensor:
    """A quantized tensor of :class:`SimulatedEngine`."""

    form: Format
    parts: Parts
    head_dim: int

    @property
    def data(self) -> Array:
        return self.parts.data

    @property
    def scale(self) -> Array:
        return self.parts.scale

    @property
    def zero_point(self) -> Array | None:
        return self.parts.zero_point

    def dequantize(self) -> F32:
        stored = self.data
        if self.form.precision == "int4":
            low, high = stored.astype(np.int8) << 4 >> 4, stored.astype(np.int8) >> 4
            stored = np.stack([low, high], axis=-1).reshape(*stored.shape[:-1], self.head_dim)
        shifts = 0 if self.zero_point is None else self._spread(self.zero_point)
        x = self._spread(self.scale) * (stored - shifts)
        if self.form.rotate:
            x = x @ hadamard(self.head_dim)
        return x.astype(np.float32)

    def _spread(self, per_group: Array) -> Array:
        rows, columns = self.data.shape[2], self.head_dim
        if self.form.granularity == "channel":
            spread = np.repeat(per_group, self.form.block_rows, axis=2)[:, :, :rows]
        else:
            spread = np.repeat(per_group, self.form.group or columns, axis=3)[..., :columns]
        return spread.astype(np.float64)


class SimulatedEngine:
    """Quantization as the contract defines it; attention on the dequantized operands."""

    def attention(self, q: Operand, k: Operand, v: Operand, *, causal: bool) -> tuple[F32, F32]:
        floats = (x if isinstance(x, np.ndarray) else x.dequantize() for x in (q, k, v))
        output, logsumexp = plain.attention(*floats, causal=causal, alignment="bottom_right")
        return output.astype(np.float32), logsumexp.astype(np.float32)

    def merge(self, outputs: list[F32], logsumexps: list[F32]) -> F32:
        weights = np.exp(np.stack(logsumexps) - np.logaddexp.reduce(logsumexps))[..., None]
        merged: F32 = np.sum(weights * np.stack(outputs), axis=0).astype(np.float32)
        return merged

    def quantize(self, x: F32, form: Format) -> Quantized:
        y = x.astype(np.float64)
        if form.rotate:
            y = y @ hadamard(x.shape[-1])
        low, high = self._range(y, form)
        limit = {"int8": 127, "int4": 7}[form.precision]
        scale = np.maximum(-low, high) / limit if form.symmetric else (high - low) / (2 * limit + 1)
        scale = np.where(scale == 0, 1, scale).astype(form.scale_dtype)
        zero = None
        if not form.symmetric:
            zero = np.rint(-(limit + 1) - low / scale).clip(-limit - 1, limit)
            zero = zero.astype(form.zero_point_dtype)
        parts = Parts(np.empty((*x.shape[:3], 0), np.int8), scale, zero)
        template = SimulatedTensor(form, parts, x.shape[-1])
        shifts = 0 if zero is None else template._spread(zero)
        rounded = np.rint(y / template._spread(scale)) + shifts
        stored: Array = rounded.clip(-limit - (zero is not None), limit).astype(np.int8)
        if form.precision == "int4":
            stored = (stored[..., ::2] & 15 | stored[..., 1::2] << 4).astype(np.uint8)
        return SimulatedTensor(form, Parts(stored, scale, zero), x.shape[-1])

    @staticmethod
    def _range(y: Array, form: Format) -> tuple[Array, Array]:
        """Least and greatest element of each group, in the shape of the scales, 0 included."""
        if form.granularity == "channel":
            starts, axis = np.arange(0, y.shape[2], form.block_rows), 2
        else:
            starts, axis = np.arange(0, y.shape[3], form.group or y.shape[3]), 3
        low = np.minimum.reduceat(y, starts, axis=axis)
        high = np.maximum.reduceat(y, starts, axis=axis)
        return np.minimum(low, 0), np.maximum(high, 0)

    def assemble(self, form: Format, parts: Parts, head_dim: int) -> Quantized:
        return SimulatedTensor(form, parts, head_dim)


@dataclass(frozen=True)
class TinyShape:
    """Hyper-parameters of :func:`write_tiny_model`."""

    layers: int = 2
    embedding: int = 128
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 96
    rope_base: float = 10000.0
    epsilon: float = 1e-5
    context: int = 512

    @property
    def head_dim(self) -> int:
        return self.embedding // self.heads


TINY = TinyShape()
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_vocabulary() -> tuple[list[str], list[str]]:
    """Tokens (three special ones, 256 bytes, one merge) and merges of a byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "th"], ["t h"]


def tiny_tensors(shape: TinyShape = TINY) -> dict[str, F32]:
    """Random weights as Llama publishes them: rotated pairs are (j, j + D/2)."""
    random = np.random.default_rng(7)

    def weight(rows: int, columns: int) -> F32:
        scaled = random.standard_normal((rows, columns)) / np.sqrt(columns)
        return np.asarray(scaled, np.float32)

    def norm() -> F32:
        return random.uniform(0.5, 1.5, shape.embedding).astype(np.float32)

    tensors = {
        "token_embd": weight(len(tiny_vocabulary()[0]), shape.embedding) * np.float32(8),
        "output_norm": norm(),
    }
    kv = shape.kv_heads * shape.head_dim
    for i in range(shape.layers):
        tensors[f"blk.{i}.attn_norm"] = norm()
        tensors[f"blk.{i}.attn_q"] = weight(shape.embedding, shape.embedding) * np.float32(2)
        tensors[f"blk.{i}.attn_k"] = weight(kv, shape.embedding) * np.float32(2)
        tensors[f"blk.{i}.attn_v"] = weight(kv, shape.embedding)
        tensors[f"blk.{i}.attn_output"] = weight(shape.embedding, shape.embedding)
        tensors[f"blk.{i}.ffn_norm"] = norm()
        tensors[f"blk.{i}.ffn_gate"] = weight(shape.feed_forward, shape.embedding)
        tensors[f"blk.{i}.ffn_up"] = weight(shape.feed_forward, shape.embedding)
        tensors[f"blk.{i}.ffn_down"] = weight(shape.embedding, shape.feed_forward)
    return tensors


def pair_neighbours(weight: F32, heads: int) -> F32:
    """Reorder rows as GGUF converters do, so that a rotated pair is (2j, 2j + 1)."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_tiny_model(
    path: Path, shape: TinyShape = TINY, changes: dict[str, Any] | None = None
) -> None:
    """A GGUF file of random weights; ``changes`` override or (None) drop metadata and tensors."""
    import gguf

    tokens, merges = tiny_vocabulary()
    metadata: dict[str, Any] = {
        "llama.block_count": shape.layers,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.embedding,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": shape.epsilon,
        "llama.rope.freq_base": shape.rope_base,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    tensors = tiny_tensors(shape)
    for i in range(shape.layers):
        for name, heads in (("attn_q", shape.heads), ("attn_k", shape.kv_heads)):
            tensors[f"blk.{i}.{name}"] = pair_neighbours(tensors[f"blk.{i}.{name}"], heads)
    changes = {"architecture": "llama", **(changes or {})}
    architecture = changes.pop("architecture")
    for key, value in changes.items():
        target: dict[str, Any] = (
            tensors if key in tensors or isinstance(value, np.ndarray) else metadata
        )
        target[key] = value
    writer: Any = gguf.GGUFWriter(path, architecture)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        if value is not None:
            add.get(type(value), writer.add_array)(key, value)
    for name, tensor in tensors.items():
        if tensor is not None:
            writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
