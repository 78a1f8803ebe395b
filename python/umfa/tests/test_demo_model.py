"""The demo's GGUF reader, tokenizer and Llama forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest
from demo_support import TINY, SimulatedEngine, tiny_tensors, tiny_vocabulary, write_tiny_model

from umfa.demo._evaluate import Session, perplexity
from umfa.demo._gguf import open_gguf, read_config, read_model
from umfa.demo._model import Llama, ModelError
from umfa.demo._modes import MODES
from umfa.demo._tokenizer import Tokenizer

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path)
    return read_model(open_gguf(path))


def reference_logits(tokens: npt.NDArray[np.int64]) -> Array:
    """Llama in float64 as its authors define it: rotated pairs (j, j + D/2), a loop over heads."""
    w = {name: tensor.astype(np.float64) for name, tensor in tiny_tensors().items()}
    n, dim = len(tokens), TINY.head_dim
    angles = np.outer(np.arange(n), TINY.rope_base ** (-np.arange(0, dim, 2) / dim))
    cos, sin = np.cos(angles), np.sin(angles)

    def norm(x: Array, weight: Array) -> Array:
        return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + TINY.epsilon) * weight)

    def rotate(x: Array) -> Array:
        a, b = x[:, : dim // 2], x[:, dim // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

    x = w["token_embd"][tokens]
    for i in range(TINY.layers):
        y = norm(x, w[f"blk.{i}.attn_norm"])
        q, k, v = (y @ w[f"blk.{i}.attn_{name}"].T for name in "qkv")
        heads = []
        for head in range(TINY.heads):
            shared = head // (TINY.heads // TINY.kv_heads)
            mine = slice(head * dim, (head + 1) * dim)
            theirs = slice(shared * dim, (shared + 1) * dim)
            scores = rotate(q[:, mine]) @ rotate(k[:, theirs]).T / np.sqrt(dim)
            scores[np.triu_indices(n, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, theirs])
        x = x + np.concatenate(heads, axis=1) @ w[f"blk.{i}.attn_output"].T
        y = norm(x, w[f"blk.{i}.ffn_norm"])
        gate, up = y @ w[f"blk.{i}.ffn_gate"].T, y @ w[f"blk.{i}.ffn_up"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"blk.{i}.ffn_down"].T
    return np.asarray(norm(x, w["output_norm"]) @ w["token_embd"].T)


def test_forward_matches_a_float64_reference(model: Llama) -> None:
    tokens = np.random.default_rng(0).integers(0, len(tiny_vocabulary()[0]), 50)
    expected = reference_logits(tokens)
    session = Session(model, SimulatedEngine(), MODES[0], len(tokens))
    prefilled = model.logits(session.feed(tokens[:30]))
    decoded = [model.logits(session.feed(tokens[i : i + 1])) for i in range(30, 50)]
    found = np.concatenate([prefilled, *decoded])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    shifted = expected - expected.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    nats = -log_p[np.arange(49), tokens[1:]].mean()
    session = Session(model, SimulatedEngine(), MODES[0], len(tokens))
    assert perplexity(model, session.feed(tokens), tokens) == pytest.approx(np.exp(nats), rel=1e-4)


def test_float64_forward_is_float64_throughout(model: Llama) -> None:
    tokens = np.random.default_rng(1).integers(0, len(tiny_vocabulary()[0]), 40)

    class Plain:
        def attend(self, q: Array, k: Array, v: Array) -> Array:
            return plain.attention(q, k, v, causal=True)[0]

    hidden = model.forward(tokens, 0, [Plain()] * TINY.layers, precision=np.float64)
    expected = reference_logits(tokens)
    assert np.abs(model.logits(hidden) - expected).max() <= 1e-12 * np.abs(expected).max()


def test_quantized_weights_are_expanded(tmp_path: Path) -> None:
    import gguf

    write_tiny_model(tmp_path / "tiny.gguf")
    reader = open_gguf(tmp_path / "tiny.gguf")
    name = "blk.0.ffn_up.weight"
    tensor = next(t for t in reader.tensors if t.name == name)
    packed = gguf.quants.quantize(np.asarray(tensor.data), gguf.GGMLQuantizationType.Q4_1)
    expanded = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    tensor_index = reader.tensors.index(tensor)
    reader.tensors[tensor_index] = tensor._replace(
        data=packed, tensor_type=gguf.GGMLQuantizationType.Q4_1
    )
    gate_up = read_model(reader).weights.layers[0].gate_up
    np.testing.assert_array_equal(gate_up[TINY.feed_forward :], expanded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "architecture 'gpt2' found, 'llama' expected"),
        ({"llama.block_count": None}, "no 'llama.block_count'"),
        ({"llama.rope.scaling.type": "yarn"}, "RoPE scaling 'yarn'"),
        ({"llama.rope.dimension_count": 16}, "RoPE over 16"),
        ({"blk.1.ffn_up": None}, "no tensor 'blk.1.ffn_up.weight'"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_tiny_model(tmp_path / "other.gguf", changes=changes)
    with pytest.raises(ModelError, match=message):
        read_model(open_gguf(tmp_path / "other.gguf"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot read '.*model.gguf' as GGUF"):
        open_gguf(tmp_path / "model.gguf")


def test_tokenizer(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf")
    tokenizer = Tokenizer(open_gguf(tmp_path / "tiny.gguf"))
    vocabulary = tiny_vocabulary()[0]

    def spelled(text: str) -> list[str]:
        return [vocabulary[token] for token in tokenizer.encode(text)]

    assert spelled("the 42<|im_end|>") == ["th", "e", "Ġ", "4", "2", "<|im_end|>"]
    text = "Curiouser and curiouser! — naïve\n\n2026"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([tokenizer.end, *tokenizer.encode("then")]) == "then"
    asked = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.chat("Why?") == tokenizer.encode(asked)


@pytest.mark.parametrize("field", ["ggml.model", "ggml.pre", "ggml.merges", "chat_template"])
def test_other_tokenizers_are_refused(tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing.gguf"
    write_tiny_model(missing, changes={f"tokenizer.{field}": None})
    with pytest.raises(ModelError, match=rf"no 'tokenizer\.{field}'"):
        Tokenizer(open_gguf(missing))
    if field in ("ggml.model", "ggml.pre"):
        write_tiny_model(tmp_path / "other.gguf", changes={f"tokenizer.{field}": "other"})
        with pytest.raises(ModelError, match="'gpt2/smollm' expected"):
            Tokenizer(open_gguf(tmp_path / "other.gguf"))


def test_config_defaults(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "mha.gguf", changes={"llama.attention.head_count_kv": None})
    config = read_config(open_gguf(tmp_path / "mha.gguf"))
    assert config.kv_heads == config.heads == TINY.heads
    assert config.head_dim == TINY.head_dim
