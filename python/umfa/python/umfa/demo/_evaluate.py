"""What is measured of each mode: perplexity, cache size, time, and the text it writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._cache import KvCache, Stopwatch
from ._engine import F32, Engine
from ._model import Llama
from ._modes import MODES, Mode
from ._rows import over_rows
from ._tokenizer import Tokenizer

Tokens = npt.NDArray[np.int64]

#: Called after each unit of work; :func:`work_units` tells how many there will be.
Tick = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """How much to run."""

    tokens: int
    decoded: int  # of these, how many go one at a time through the cache
    prompt: str
    generated: int  # at most
    checked: int  # tokens over which FP32 attention is compared with FP64


@dataclass(frozen=True)
class Result:
    perplexity: float
    kv_cache_bytes: int
    prefill_attention_s: float
    decode_tokens_per_s: float
    decode_attention_s_per_token: float  # part of a step, storing the new row included
    max_logit_error_vs_fp32: float
    text: str


class Session:
    """One model, one mode, one growing sequence."""

    def __init__(self, model: Llama, engine: Engine, mode: Mode, capacity: int) -> None:
        c = model.config
        self._model, self._position = model, 0
        self.attention = Stopwatch()
        self._caches = [
            KvCache(engine, mode, c.kv_heads, c.head_dim, capacity, self.attention)
            for _ in range(c.layers)
        ]

    def feed(self, tokens: Tokens, tick: Tick = lambda: None) -> F32:
        """Final hidden states of ``tokens``, which extend the sequence; ticks once per layer."""
        hidden = self._model.forward(tokens, self._position, self._caches, lambda _: tick())
        self._position += len(tokens)
        return hidden

    @property
    def cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches)


def work_units(model: Llama, plan: Plan) -> int:
    """Ticks of :func:`run_mode` for every mode, and of the check of attention."""
    per_mode = model.config.layers + plan.decoded + plan.generated
    return len(MODES) * per_mode + 2 * model.config.layers


def run_mode(
    model: Llama,
    tokenizer: Tokenizer,
    engine: Engine,
    mode: Mode,
    plan: Plan,
    tokens: Tokens,
    reference: F32 | None,
    tick: Tick,
) -> tuple[Result, F32]:
    """Measure ``mode``; also returns its hidden states, the ``reference`` of later modes.

    All but the last ``plan.decoded`` tokens are prefilled in one pass; the rest go through the
    cache one by one, and count in the perplexity like the others.
    """
    session = Session(model, engine, mode, len(tokens))
    prefilled = len(tokens) - plan.decoded
    parts = [session.feed(tokens[:prefilled], tick)]
    prefill_attention = session.attention.seconds
    started = time.perf_counter()
    for position in range(prefilled, len(tokens)):
        parts.append(session.feed(tokens[position : position + 1]))
        model.logits(parts[-1])  # generating would need them: they belong to the time of a step
        tick()
    decode_seconds = time.perf_counter() - started
    decode_attention = session.attention.seconds - prefill_attention
    hidden = np.concatenate(parts)
    error = 0.0 if reference is None else _largest_logit_difference(model, hidden, reference)
    result = Result(
        perplexity=perplexity(model, hidden, tokens),
        kv_cache_bytes=session.cache_bytes,
        prefill_attention_s=prefill_attention,
        decode_tokens_per_s=plan.decoded / decode_seconds,
        decode_attention_s_per_token=decode_attention / plan.decoded,
        max_logit_error_vs_fp32=error,
        text=generate(model, tokenizer, engine, mode, plan, tick),
    )
    return result, hidden


def perplexity(model: Llama, hidden: F32, tokens: Tokens) -> float:
    """exp(mean(-ln p(token | tokens before it))), over all tokens but the first."""

    def nats(rows: slice) -> float:
        following = tokens[1:][rows]
        logits = model.logits(hidden[rows])
        chosen = logits[np.arange(len(following)), following].astype(np.float64)
        top = logits.max(axis=-1)
        sums = np.exp(logits - top[:, None]).sum(axis=-1, dtype=np.float64)
        return float((top + np.log(sums) - chosen).sum())

    count = len(tokens) - 1
    return float(np.exp(sum(over_rows(count, nats)) / count))


def generate(
    model: Llama, tokenizer: Tokenizer, engine: Engine, mode: Mode, plan: Plan, tick: Tick
) -> str:
    """The answer to ``plan.prompt``, the likeliest token each time."""
    prompt = tokenizer.chat(plan.prompt)
    session = Session(model, engine, mode, len(prompt) + plan.generated)
    hidden = session.feed(np.asarray(prompt))
    answer: list[int] = []
    while len(answer) < plan.generated:
        token = int(model.logits(hidden[-1:]).argmax())
        if token == tokenizer.end:
            break
        answer.append(token)
        tick()
        hidden = session.feed(np.asarray([token]))
    for _ in range(plan.generated - len(answer)):
        tick()
    return tokenizer.decode(answer)


def _largest_logit_difference(model: Llama, a: F32, b: F32) -> float:
    # Logits are made again from hidden states: those of 8,192 tokens would take 1.6 GB.
    def largest(rows: slice) -> float:
        return float(np.abs(model.logits(a[rows]) - model.logits(b[rows])).max())

    return max(over_rows(len(a), largest))
