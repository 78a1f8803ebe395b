"""Why the demo's cache formats are what they are: ``python -m umfa.demo.study``.

Runs the model on consecutive stretches of the demo's text with one candidate after the other, and
prints what each costs (bits per element of the cache) and loses (change of perplexity, and
Kullback-Leibler divergence from the FP32 model's predictions, the steadier of the two).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ._app import umfa_engine
from ._engine import F32, Engine, Format
from ._evaluate import Session, Tokens, perplexity
from ._fetch import fetch_model
from ._gguf import open_gguf, read_model
from ._model import Llama
from ._modes import MODES, Mode
from ._rows import over_rows, single_threaded_blas
from ._text import load_text
from ._tokenizer import Tokenizer

_INT8_ROW = Format("int8")
_INT4_ROW = Format("int4", group=32, symmetric=False)
_INT4_CHANNEL = Format("int4", "channel", block_rows=32, symmetric=False)


def _rotated(form: Format) -> Format:
    return replace(form, rotate=True)


CANDIDATES = (
    Mode("", "INT8 K/V: row", k=_INT8_ROW, v=_INT8_ROW),
    Mode("", "INT8 K/V: row, rotated (chosen)", k=MODES[1].k, v=MODES[1].v),
    Mode("", "INT8 Q/K/V: row", q=_INT8_ROW, k=_INT8_ROW, v=_INT8_ROW),
    Mode("", "INT8 Q/K/V: row, rotated (chosen)", q=MODES[3].q, k=MODES[3].k, v=MODES[3].v),
    Mode("", "INT4 K: groups of 32", k=_INT4_ROW),
    Mode("", "INT4 K: groups of 32, rotated", k=_rotated(_INT4_ROW)),
    Mode("", "INT4 K: channel, 64 rows", k=replace(_INT4_CHANNEL, block_rows=64)),
    Mode("", "INT4 K: channel, 32 rows", k=_INT4_CHANNEL),
    Mode("", "INT4 K: channel, 32 rows, rotated", k=_rotated(_INT4_CHANNEL)),
    Mode("", "INT4 V: groups of 32", v=_INT4_ROW),
    Mode("", "INT4 V: groups of 32, rotated", v=_rotated(_INT4_ROW)),
    Mode("", "INT4 V: channel, 32 rows", v=_INT4_CHANNEL),
    Mode("", "INT4 K/V: both rotated (chosen)", k=MODES[2].k, v=MODES[2].v),
)


@dataclass(frozen=True)
class Loss:
    """What a candidate loses on one stretch of text."""

    perplexity: float  # relative change
    divergence: float  # nats per token


def divergence(model: Llama, hidden: F32, reference: F32) -> float:
    """Mean over tokens of KL(p_reference ‖ p), in nats."""

    def log_softmax(rows: F32) -> F32:
        logits = model.logits(rows)
        logits -= logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

    def nats(rows: slice) -> float:
        found, expected = log_softmax(hidden[rows]), log_softmax(reference[rows])
        return float((np.exp(expected) * (expected - found)).sum(dtype=np.float64))

    return sum(over_rows(len(hidden), nats)) / len(hidden)


def study(
    model: Llama, engine: Engine, stretches: list[Tokens], candidates: Iterable[Mode] = CANDIDATES
) -> dict[str, tuple[float, list[Loss]]]:
    """Bits per element of the cache, and the loss on each stretch, of each candidate by title."""
    results: dict[str, tuple[float, list[Loss]]] = {}
    references = [Session(model, engine, MODES[0], len(s)).feed(s) for s in stretches]
    for mode in track(list(candidates), "candidates", transient=True):
        bits, losses = 0.0, []
        for tokens, reference in zip(stretches, references):
            session = Session(model, engine, mode, len(tokens))
            hidden = session.feed(tokens)
            c = model.config
            elements = 2 * c.layers * c.kv_heads * c.head_dim * len(tokens)
            bits = 8 * session.cache_bytes / elements
            change = perplexity(model, hidden, tokens) / perplexity(model, reference, tokens) - 1
            losses.append(Loss(change, divergence(model, hidden, reference)))
        results[mode.title] = bits, losses
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m umfa.demo.study", description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048, help="length of a stretch")
    parser.add_argument("--stretches", type=int, default=3, help="how many of them")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the demo's")
    parser.add_argument("--text", type=Path, help="a text file instead of the demo's")
    options = parser.parse_args()
    reader = open_gguf(options.model or fetch_model())
    text = options.text.read_text(encoding="utf-8") if options.text else load_text()
    tokens = np.asarray(Tokenizer(reader).encode(text), dtype=np.int64)
    if len(tokens) < options.tokens * options.stretches:
        parser.error(f"the text has {len(tokens)} tokens")
    stretches = np.split(tokens[: options.tokens * options.stretches], options.stretches)
    with single_threaded_blas(), umfa_engine("auto") as engine:
        results = study(read_model(reader), engine, stretches)
    table = Table(
        title=f"perplexity and divergence (1e-4 nats) from FP32, {options.stretches} x "
        f"{options.tokens} tokens",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("candidate", "bits", "mean", "worst", "divergence"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for title, (bits, losses) in results.items():
        changes = [loss.perplexity for loss in losses]
        mean = float(np.mean([loss.divergence for loss in losses]))
        table.add_row(
            title,
            f"{bits:.2f}",
            f"{np.mean(changes):+.2%}",
            f"{max(changes):+.2%}",
            f"{mean * 1e4:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
