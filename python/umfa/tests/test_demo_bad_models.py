"""Files that are no model, or not quite: each is a ModelError, before anything is computed."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_support import SimulatedEngine, tiny_tensors, tiny_vocabulary, write_tiny_model
from rich.console import Console

from umfa.demo import _app
from umfa.demo._evaluate import Session
from umfa.demo._model import Llama, ModelError
from umfa.demo._modes import MODES
from umfa.demo._tokenizer import Tokenizer

QUIET = Console(file=io.StringIO())


def load(path: Path) -> tuple[Llama, Tokenizer]:
    return _app.load(path, QUIET)


TENSORS = tiny_tensors()
TOKENS = tiny_vocabulary()[0]


def resized(name: str, *shape: int) -> dict[str, Any]:
    return {name: np.ones(shape, np.float32)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.attention.head_count": 0}, "head_count': 0 found, an integer from 1"),
        ({"llama.attention.head_count": "four"}, "head_count': 'four' found"),
        ({"llama.attention.head_count": [4, 4]}, r"head_count': \[4, 4\] found"),
        ({"llama.attention.head_count": 128}, "a multiple of the|head dimension 1 found"),
        ({"llama.attention.head_count_kv": 3}, "4 query heads found, a multiple of the 3"),
        ({"llama.attention.head_count_kv": 0}, "head_count_kv': 0 found"),
        ({"llama.attention.key_length": 30}, r"attn_q.weight': shape \(128, 128\) found"),
        ({"llama.attention.key_length": 2048}, "head dimension 2048 found, an even one"),
        ({"llama.attention.key_length": 31}, "head dimension 31 found, an even one"),
        ({"llama.embedding_length": 64}, r"shape \(128,\) found, \(64,\) expected"),
        ({"llama.embedding_length": 3}, "head_dim|key_length|head dimension 0 found"),
        ({"llama.block_count": 0}, "block_count': 0 found"),
        ({"llama.block_count": 3}, "no tensor 'blk.2.attn_norm.weight'"),
        ({"llama.context_length": 0}, "context_length': 0 found"),
        ({"llama.context_length": 1.5}, "context_length': 1.5 found, an integer"),
        ({"llama.rope.freq_base": 0.0}, "freq_base': 0.0 found, a number above 0"),
        ({"llama.rope.freq_base": float("inf")}, "freq_base': inf found"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon': nan found"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "epsilon': -1.0 found"),
        ({"llama.rope.scaling.type": [1, 2]}, r"scaling.type': \[1, 2\] found, a string"),
        (resized("token_embd", len(TOKENS) - 1, 128), r"260 tokens found, at most the 259 rows"),
        (resized("token_embd", len(TOKENS), 127), r"token_embd.weight': shape \(260, 127\)"),
        (resized("token_embd", 128), r"token_embd.weight': shape \(128,\)"),
        (resized("output", 7, 128), r"output.weight': shape \(7, 128\)"),
        (resized("output_norm", 4), r"output_norm.weight': shape \(4,\)"),
        (resized("blk.1.attn_norm", 1, 128), r"blk.1.attn_norm.weight': shape \(1, 128\)"),
        (resized("blk.0.attn_k", 128, 128), r"blk.0.attn_k.weight': shape \(128, 128\)"),
        (resized("blk.1.ffn_up", 95, 128), r"blk.1.ffn_up.weight': shape \(95, 128\)"),
        (resized("blk.0.ffn_down", 96, 128), r"blk.0.ffn_gate.weight': shape|ffn_down"),
        (resized("blk.1.ffn_down", 128, 64), r"blk.1.ffn_down.weight': shape \(128, 64\)"),
        ({"output_norm": np.ones(128, np.int32)}, "output_norm.weight.*I32"),
        ({"output_norm": np.ones(128, np.int8)}, "output_norm.weight.*I8"),
        ({"blk.0.attn_q": np.full((128, 128), np.nan, np.float32)}, "attn_q.weight': NaN"),
        ({"blk.1.ffn_gate": np.full((96, 128), np.inf, np.float32)}, "ffn_gate.weight': NaN"),
        ({"tokenizer.ggml.merges": ["th"]}, "merge 'th' found, two tokens with a blank"),
        ({"tokenizer.ggml.merges": ["t h", "qq zz"]}, "the tokenizer: .*qq"),
        ({"tokenizer.ggml.merges": [1, 2]}, r"merges': \[1, 2\] found, a list of str"),
        ({"tokenizer.ggml.tokens": "all"}, "tokens': 'all' found, a list of str"),
        ({"tokenizer.ggml.tokens": [1.5]}, r"tokens': \[1.5\] found, a list of str"),
        ({"tokenizer.ggml.token_type": [3, 3, 3]}, "3 types of tokens found, 260 expected"),
        ({"tokenizer.ggml.eos_token_id": 260}, "eos_token_id': 260 found, an integer from 0 to 25"),
        ({"tokenizer.chat_template": "{% for %}"}, "the chat template: .*TemplateSyntaxError"),
        ({"tokenizer.chat_template": 7}, "chat_template': 7 found, a string"),
    ],
)
def test_metadata_and_tensors_that_disagree(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_tiny_model(tmp_path / "bad.gguf", changes=changes)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "bad.gguf")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ 'x' + 1 }}", "TypeError"),
        ("{{ raise_exception('no') }}", "UndefinedError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ '' }}", "no token found"),
    ],
)
def test_templates_that_fail(tmp_path: Path, template: str, message: str) -> None:
    """Found before the model is run for minutes."""
    path = tmp_path / "bad.gguf"
    write_tiny_model(path, changes={"tokenizer.chat_template": template})
    options = _app.Options(128, True, path, None, None, "cpu")
    with pytest.raises(ModelError, match=message):
        _app.run(options, QUIET, engine=None)


def test_numbers_that_overflow_are_the_models_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    huge = np.full((128, 96), 1e38, np.float32)
    write_tiny_model(path, changes={"blk.1.ffn_down": huge, "blk.0.ffn_down": -huge})
    options = _app.Options(128, True, path, None, None, "cpu")
    with pytest.raises(ModelError, match="the model's layer 0 gives NaN or infinity in float32"):
        _app.run(options, QUIET)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "good.gguf")
    content = (tmp_path / "good.gguf").read_bytes()
    for text in (b"smollm", b"<|im_start|>", b"llama.block_count", "Ġ".encode()):
        at = content.index(text)
        (tmp_path / "bad.gguf").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
        with pytest.raises(ModelError):
            load(tmp_path / "bad.gguf")


def first_tensor(content: bytes) -> int:
    """Where the weights begin: what comes before is structure."""
    return content.index(TENSORS["output_norm"].tobytes()[:64])


def mutations(content: bytes, count: int) -> Any:
    """The file with a few bytes of its structure changed, moved, or cut off."""
    source = random.Random(20)
    ends = first_tensor(content)
    names = [content.index(name) for name in (b"llama.block_count", b"tokenizer.chat_template")]
    edges = [0, 1, 2, 0xFF, 0x7F, 0x80]
    for _ in range(count):
        changed = bytearray(content)
        kind = source.randrange(4)
        if kind == 0:
            del changed[source.randrange(ends) :]
        elif kind == 1:
            at = source.randrange(ends - 8)
            changed[at : at + 8] = struct.pack("<Q", source.choice([0, 1, 2**31, 2**63, 2**64 - 1]))
        else:
            # Most of the structure is the vocabulary: half of the changes are elsewhere.
            low, high = (0, ends) if source.random() < 0.5 else (0, names[1] // 4)
            for _ in range(source.choice([1, 1, 3])):
                changed[source.randrange(low, high)] = source.choice(
                    [*edges, source.randrange(256)]
                )
        yield bytes(changed)


def test_mutated_files(tmp_path: Path) -> None:
    """They load and run, or are refused by a message."""
    write_tiny_model(tmp_path / "good.gguf")
    content = (tmp_path / "good.gguf").read_bytes()
    refused = 0
    for number, changed in enumerate(mutations(content, 250)):
        path = tmp_path / f"bad{number}.gguf"
        path.write_bytes(changed)
        try:
            model, tokenizer = load(path)
            tokens = np.asarray(tokenizer.chat("Why?")[:9])
            session = Session(model, SimulatedEngine(), MODES[0], len(tokens))
            with np.errstate(all="ignore"):
                logits = model.logits(session.feed(tokens))
            assert logits.shape == (len(tokens), len(model.weights.embedding))
        except ModelError:
            refused += 1
        path.unlink()
    assert 100 < refused < 250
