"""A model from a GGUF file. Whatever is wrong with the file is a :class:`ModelError`.

Files come from anywhere, and the packages that read them raise what they happen to raise. So
metadata is read through :class:`Metadata`, tensors are checked against it, and what other packages
raise is told in a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ._model import F32, Config, Layer, Llama, ModelError, Weights

_MOST = 2**31 - 1


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns what another package raises into a :class:`ModelError` about ``what``."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        raise ModelError(f"{what}: {reason or kind} ({kind})") from error


def open_gguf(path: Path) -> Any:
    """A ``gguf.GGUFReader`` over ``path``; :class:`ModelError` if it isn't a GGUF file."""
    import gguf

    with told(f"cannot read '{path}' as GGUF"):
        return gguf.GGUFReader(path)


class Metadata:
    """The metadata of an open ``gguf.GGUFReader``, of the types that are expected."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __contains__(self, key: str) -> bool:
        return self._reader.get_field(key) is not None

    def text(self, key: str) -> str:
        found = self._get(key)
        if not isinstance(found, str):
            raise ModelError(f"'{key}': {_shown(found)} found, a string expected")
        return found

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = _MOST
    ) -> int:
        if default is not None and key not in self:
            return default
        found = self._get(key)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise ModelError(
                f"'{key}': {_shown(found)} found, an integer from {least} to {most} expected"
            )
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        if default is not None and key not in self:
            return default
        found = self._get(key)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if not number or not 0 < found < math.inf:
            raise ModelError(f"'{key}': {_shown(found)} found, a number above 0 expected")
        return float(found)

    def list_of(self, kind: type, key: str) -> list[Any]:
        found = self._get(key)
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            raise ModelError(f"'{key}': {_shown(found)} found, a list of {kind.__name__} expected")
        return found

    def _get(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise ModelError(f"the GGUF metadata has no '{key}'")
        with told(f"'{key}'"):
            return field.contents()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def read_config(reader: Any) -> Config:
    """Hyper-parameters of an open ``gguf.GGUFReader``."""
    metadata = Metadata(reader)
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise ModelError(f"architecture '{architecture}' found, 'llama' expected")
    if "llama.rope.scaling.type" in metadata:
        kind = metadata.text("llama.rope.scaling.type")
        if kind != "none":
            raise ModelError(f"RoPE scaling '{kind}' found, none expected")
    heads = metadata.integer("llama.attention.head_count")
    kv_heads = metadata.integer("llama.attention.head_count_kv", heads)
    if heads % kv_heads:
        raise ModelError(
            f"{heads} query heads found, a multiple of the {kv_heads} key/value heads expected"
        )
    embedding = metadata.integer("llama.embedding_length")
    head_dim = metadata.integer("llama.attention.key_length", embedding // heads)
    rotated = metadata.integer("llama.rope.dimension_count", head_dim)
    value_dim = metadata.integer("llama.attention.value_length", head_dim)
    if rotated != head_dim or value_dim != head_dim:
        raise ModelError(
            f"RoPE over {rotated} and values of {value_dim} dimensions found, "
            f"both expected equal to the head dimension {head_dim}"
        )
    if head_dim % 2 or not 0 < head_dim <= 512:
        raise ModelError(f"head dimension {head_dim} found, an even one from 2 to 512 expected")
    return Config(
        layers=metadata.integer("llama.block_count"),
        embedding=embedding,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=metadata.integer("llama.context_length"),
        rms_epsilon=metadata.number("llama.attention.layer_norm_rms_epsilon"),
        rope_base=metadata.number("llama.rope.freq_base", 10000.0),
    )


class Tensors:
    """The tensors of an open ``gguf.GGUFReader``, dequantized to float32 one by one."""

    def __init__(self, reader: Any, on_tensor: Callable[[int, int], None]) -> None:
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._on_tensor = on_tensor
        self._done = 0

    def __contains__(self, name: str) -> bool:
        return f"{name}.weight" in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """As NumPy orders it; GGUF's is the other way around."""
        return tuple(int(size) for size in reversed(self._get(name).shape))

    def read(self, name: str, *shape: int) -> F32:
        """The tensor, of this shape and of finite numbers."""
        from gguf.quants import dequantize

        tensor = self._get(name)
        self._expect(name, self.shape(name), shape)
        self._done += 1
        self._on_tensor(self._done, len(self._tensors))
        with told(f"tensor '{name}.weight' of type {tensor.tensor_type.name}"):
            found = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type))
        if found.dtype.kind != "f":
            raise ModelError(
                f"tensor '{name}.weight': type {tensor.tensor_type.name} found, floats or a "
                "quantized type expected"
            )
        self._expect(name, found.shape, shape)
        with np.errstate(over="ignore", invalid="ignore"):
            found = found.astype(np.float32, copy=False)
            finite = math.isfinite(found.sum(dtype=np.float64))
        if not finite:
            raise ModelError(f"tensor '{name}.weight': NaN or infinity found, numbers expected")
        return found

    def joined(self, prefix: str, columns: int, **rows: int) -> F32:
        """Projections that read the same input, one below the other."""
        return np.concatenate(
            [self.read(f"{prefix}.{name}", count, columns) for name, count in rows.items()]
        )

    def _get(self, name: str) -> Any:
        tensor = self._tensors.get(f"{name}.weight")
        if tensor is None:
            raise ModelError(f"the GGUF file has no tensor '{name}.weight'")
        return tensor

    @staticmethod
    def _expect(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
        if tuple(found) != tuple(expected):
            raise ModelError(
                f"tensor '{name}.weight': shape {tuple(found)} found, {tuple(expected)} expected "
                "from the metadata"
            )


def read_model(reader: Any, on_tensor: Callable[[int, int], None] = lambda *_: None) -> Llama:
    """Dequantize an open ``gguf.GGUFReader`` to float32; ``on_tensor(done, total)`` as it goes."""
    config = read_config(reader)
    tensors = Tensors(reader, on_tensor)
    if "rope_freqs" in tensors:
        raise ModelError("RoPE frequency factors found (rope_freqs.weight), none expected")
    width = config.embedding
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    vocabulary = tensors.shape("token_embd")[0]
    hidden = tensors.shape("blk.0.ffn_down")[-1]
    layers = tuple(
        Layer(
            attention_norm=tensors.read(f"{prefix}.attn_norm", width),
            qkv=tensors.joined(prefix, width, attn_q=q_rows, attn_k=kv_rows, attn_v=kv_rows),
            attention_out=tensors.read(f"{prefix}.attn_output", width, q_rows),
            ffn_norm=tensors.read(f"{prefix}.ffn_norm", width),
            gate_up=tensors.joined(prefix, width, ffn_gate=hidden, ffn_up=hidden),
            down=tensors.read(f"{prefix}.ffn_down", width, hidden),
        )
        for prefix in (f"blk.{i}" for i in range(config.layers))
    )
    embedding = tensors.read("token_embd", vocabulary, width)
    # A model without its own output matrix ties it to the embedding.
    tied = "output" not in tensors
    output = embedding if tied else tensors.read("output", vocabulary, width)
    return Llama(config, Weights(embedding, layers, tensors.read("output_norm", width), output))
