"""``umfa train``: from an empty cache folder to the table, the plot and the JSON file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from umfa._files import check_output
from umfa.demo._app import fetch, load
from umfa.demo._model import Config
from umfa.demo._text import SOURCE, load_text

from . import _report as report
from ._loop import Data, Outcome, Trainer, train, work_units
from ._modes import TITLES

#: Windows of text that are kept from training, from its end.
HELD_OUT = 4

_SHORTEST = 16


class TrainError(RuntimeError):
    """Training cannot start; the message is for the user."""


@dataclass(frozen=True)
class Options:
    """What ``umfa train`` was asked for; see :func:`umfa.train.run`."""

    steps: int
    length: int
    rank: int
    modes: tuple[str, ...]
    learning_rate: float
    seed: int
    model: Path | None
    json: Path | None
    plot: Path | None


def run(options: Options, console: Console) -> Outcome:
    """Train and report."""
    _check(options)
    path = options.model or fetch(console)
    if not path.is_file():
        raise TrainError(f"there is no file '{path}'")
    started = time.perf_counter()
    model, tokenizer = load(path, console)
    data = windows(options, model.config, tokenizer.encode(load_text()))
    trainers = {
        mode: Trainer(model, mode, options.rank, options.learning_rate, options.seed)
        for mode in options.modes
    }
    parameters = sum(p.numel() for p in next(iter(trainers.values())).model.parameters())
    console.print(
        f"[bold]{path.stem}[/]: {model.config.layers} layers; LoRA of rank {options.rank} on the "
        f"query, key, value and output projections, {parameters:,} parameters\n"
        f"[bold]Text:[/] {SOURCE}; {options.steps} steps of {options.length} tokens"
    )
    outcome = _train(trainers, data, console)
    if outcome.interrupted:
        console.print("Interrupted: these are the steps done so far.")
    if outcome.steps:
        _report(options, path, outcome, console)
        console.print(f"Done in {time.perf_counter() - started:.0f} s.")
    return outcome


def _check(options: Options) -> None:
    unknown = [mode for mode in options.modes if mode not in TITLES]
    if unknown or not options.modes:
        found = ", ".join(unknown) or "none"
        raise TrainError(f"modes: {found} found, some of {', '.join(TITLES)} expected")
    if len(set(options.modes)) < len(options.modes):
        raise TrainError(f"modes: {', '.join(options.modes)} found, each at most once expected")
    for name in ("steps", "rank"):
        if getattr(options, name) < 1:
            raise TrainError(f"{name}: {getattr(options, name)} found, at least 1 expected")
    if not options.learning_rate > 0:
        raise TrainError(f"learning rate: {options.learning_rate} found, more than 0 expected")
    check_output(options.json)
    check_output(options.plot, picture=True)


def windows(options: Options, config: Config, tokens: list[int]) -> Data:
    """Windows of ``length + 1`` tokens: the last ones held out, the others shuffled by the seed.

    More steps than the text has windows go through it again, in another order.
    """
    longest = min(config.context, len(tokens) // (HELD_OUT + 1) - 1)
    if not _SHORTEST <= options.length <= longest:
        raise TrainError(
            f"length: {options.length} found, {_SHORTEST} to {longest} expected "
            f"(the model's context is {config.context}, the text has {len(tokens)} tokens)"
        )
    size = options.length + 1
    count = len(tokens) // size
    cut = torch.tensor(tokens[: count * size]).view(count, size)
    random = np.random.default_rng(options.seed)
    trained = count - HELD_OUT
    epochs = -(-options.steps // trained)
    order = np.concatenate([random.permutation(trained) for _ in range(epochs)])
    return Data(cut[order[: options.steps]], cut[trained:])


def _train(trainers: dict[str, Trainer], data: Data, console: Console) -> Outcome:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("training", total=work_units(list(trainers), data))

        def on_work(mode: str, units: int) -> None:
            bars.update(task, advance=units, description=TITLES[mode])

        return train(trainers, data, on_work)


def _report(options: Options, path: Path, outcome: Outcome, console: Console) -> None:
    title = f"{path.stem}, {outcome.steps} steps of {options.length} tokens"
    report.print_table(console, title, outcome)
    if options.plot is not None:
        report.write_plot(options.plot, title, outcome)
        console.print(f"plot: {options.plot.resolve()}", soft_wrap=True)
    if options.json is not None:
        setting = asdict(options)
        for name in ("json", "plot", "modes"):
            setting.pop(name)
        report.write_json(options.json, {**setting, "model": path.stem}, outcome)
        console.print(f"figures: {options.json.resolve()}", soft_wrap=True)
    report.print_verdict(console, outcome)
