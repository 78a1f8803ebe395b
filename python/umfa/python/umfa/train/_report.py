"""The table, the verdict, the plot and the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umfa._files import picture_format, writing

from ._loop import SMOOTHING, Outcome
from ._modes import TITLES

#: How far INT8's final loss may be from FP32's.
TOLERANCE = 0.01

_CAPTION = f"""\
losses in nats per token; final: mean of the last {SMOOTHING} steps, and its change
from FP32's; held out: text never trained on, before and after; s/step: median;
peak: the most that the resident set grew within a step, read every 2 ms, over
what the process held before that step
"""


def write_json(path: Path, setting: dict[str, Any], outcome: Outcome) -> None:
    modes = {}
    for name, curve in outcome.curves.items():
        modes[name] = asdict(curve)
        if outcome.steps:
            modes[name]["final_loss"] = curve.final_loss(outcome.steps)
            if "fp32" in outcome.curves:
                modes[name]["final_loss_vs_fp32"] = outcome.difference(name)
    document = {
        **setting,
        "steps_done": outcome.steps,
        "interrupted": outcome.interrupted,
        "modes": modes,
    }
    with writing(path):
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def print_table(console: Console, title: str, outcome: Outcome) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("attention", no_wrap=True)
    for heading in ("first", "final", "change", "held out", "after", "s/step", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    compared = "fp32" in outcome.curves
    for name, curve in outcome.curves.items():
        table.add_row(
            TITLES[name],
            f"{curve.losses[0]:.4f}",
            f"{curve.final_loss(outcome.steps):.4f}",
            f"{outcome.difference(name):+.3%}" if compared else "-",
            _loss(curve.held_out_before),
            _loss(curve.held_out_after),
            f"{curve.seconds_per_step:.2f}",
            f"{max(curve.peak_bytes) / 1e6:.0f}",
        )
    console.print(table)
    console.print(_CAPTION, style="dim")


def print_verdict(console: Console, outcome: Outcome) -> None:
    """Whether INT8 trains as FP32 does; nothing where one of them was left out."""
    if not {"fp32", "int8_kv"} <= set(outcome.curves):
        return
    difference = outcome.difference("int8_kv")
    within = abs(difference) <= TOLERANCE
    console.print(
        f"{TITLES['int8_kv']}: final loss {difference:+.3%} from FP32's after {outcome.steps} "
        f"steps, {'within' if within else 'NOT within'} {TOLERANCE:.0%}",
        style="bold" if within else "bold red",
        highlight=False,
        soft_wrap=True,
    )


def write_plot(path: Path, title: str, outcome: Outcome) -> None:
    """Loss curves above, and below what quantization changes in them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = "fp32" in outcome.curves and len(outcome.curves) > 1
    figure, axes = pyplot.subplots(
        2 if compared else 1, 1, figsize=(9, 7), sharex=True, squeeze=False, layout="constrained"
    )
    steps = range(1, outcome.steps + 1)
    for number, (name, curve) in enumerate(outcome.curves.items()):
        losses = curve.losses[: outcome.steps]
        # Curves lie on each other: the later the thinner, so that all are seen.
        width = 1 + 1.5 * (len(outcome.curves) - 1 - number)
        axes[0, 0].plot(steps, losses, label=TITLES[name], linewidth=width, color=f"C{number}")
        if compared and name != "fp32":
            base = outcome.curves["fp32"].losses
            change = [100 * (mine / theirs - 1) for mine, theirs in zip(losses, base)]
            axes[1, 0].plot(steps, change, label=TITLES[name], color=f"C{number}")
    axes[0, 0].set_ylabel("loss (nats per token)")
    if compared:
        axes[1, 0].set_ylabel("change from FP32 (%)")
        axes[1, 0].axhspan(-100 * TOLERANCE, 100 * TOLERANCE, color="black", alpha=0.06)
        axes[1, 0].axhline(0, color="black", linewidth=0.8)
    for axis in axes.flat:
        axis.legend()
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("step")
    figure.suptitle(title)
    with writing(path):
        figure.savefig(path, dpi=120, format=picture_format(path))
    pyplot.close(figure)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
