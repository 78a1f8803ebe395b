"""`umfa demo` as a part of a run: a model's perplexity and speed with each kind of cache."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

import umfa
from umfa import demo
from umfa.bench.cases import Case
from umfa.bench.runner import Settings


@dataclass(frozen=True)
class Decoded:
    """What the demo measured of one of its modes."""

    case: str
    mode: str
    perplexity: float
    kv_cache_bytes: int
    prefill_attention_s: float
    decode_tokens_per_s: float
    # Of a step of decoding, the time in attention.
    decode_attention_s_per_token: float


class DemoFailed(Exception):
    """The demo could not run; the message says why."""


def measure(case: Case, settings: Settings, say: Callable[[str], None]) -> list[Decoded]:
    """Runs the demo on as many tokens as the case has rows. Its model is fetched where needed."""
    say("umfa demo")
    umfa.set_num_threads(settings.threads)
    try:
        results = demo.run(tokens=case.rows, plot=None, console=Console(file=io.StringIO()))
    except ImportError as error:
        raise DemoFailed(f"needs '{error.name}': pip install 'umfa[demo]'") from None
    except (RuntimeError, ValueError) as error:
        # The bases of the errors that the demo has for its user.
        raise DemoFailed(str(error)) from None
    return [
        Decoded(
            case.label,
            name,
            found.perplexity,
            found.kv_cache_bytes,
            found.prefill_attention_s,
            found.decode_tokens_per_s,
            found.decode_attention_s_per_token,
        )
        for name, found in results.items()
    ]
