"""The table, the plot and the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umfa._files import picture_format, writing

from ._evaluate import Result
from ._modes import MODES

_TITLES = {mode.name: mode.title for mode in MODES}
_CAPTION = """\
change, share: against FP32; K/V: the cache with its scales and zero points;
prefill: time in attention, quantizing included; tokens/s: decoding after it;
ms/token: attention alone in a step of decoding, storing the new row included;
error: the largest difference of a logit from FP32's
"""


def write_json(path: Path, model: str, tokens: int, results: dict[str, Result]) -> None:
    modes = {name: asdict(result) for name, result in results.items()}
    document = {"model": model, "tokens": tokens, "modes": modes}
    with writing(path):
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


def print_table(console: Console, title: str, results: dict[str, Result]) -> None:
    base = results["fp32"]
    # Plain enough to fit 80 columns.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("attention", no_wrap=True)
    for heading in (
        "perplexity",
        "change",
        "K/V MB",
        "share",
        "prefill",
        "tokens/s",
        "ms/token",
        "error",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, r in results.items():
        table.add_row(
            _TITLES[name],
            f"{r.perplexity:.3f}",
            f"{_change(r, base):+.2f}%",
            f"{r.kv_cache_bytes / 1e6:.1f}",
            f"{r.kv_cache_bytes / base.kv_cache_bytes:.3f}x",
            f"{r.prefill_attention_s:.2f} s",
            f"{r.decode_tokens_per_s:.1f}",
            f"{1e3 * r.decode_attention_s_per_token:.2f}",
            f"{r.max_logit_error_vs_fp32:.2f}",
        )
    console.print(table)
    console.print(_CAPTION, style="dim")


def print_answers(console: Console, prompt: str, results: dict[str, Result]) -> None:
    console.print(f"[bold]Prompt:[/] {prompt}")
    for name, result in results.items():
        console.print(f"[bold]{_TITLES[name]}:[/] ", end="")
        console.print(result.text, markup=False, highlight=False)


def write_plot(path: Path, title: str, results: dict[str, Result]) -> None:
    """One bar chart per figure, all on one page."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base = results["fp32"]
    charts = (
        (
            "Perplexity, change from FP32 (%)",
            "{:+.2f}",
            [_change(r, base) for r in results.values()],
        ),
        ("K/V cache (MB)", "{:.1f}", [r.kv_cache_bytes / 1e6 for r in results.values()]),
        ("Prefill attention (s)", "{:.2f}", [r.prefill_attention_s for r in results.values()]),
        ("Decoding (tokens/s)", "{:.1f}", [r.decode_tokens_per_s for r in results.values()]),
    )
    names = [_TITLES[name] for name in results]
    colours = ["#8c8c8c", "#3b75af", "#d9822b", "#519e3e"][: len(names)]
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (heading, form, values) in zip(axes.flat, charts):
        bars = axis.bar(names, values, color=colours)
        axis.bar_label(bars, labels=[form.format(value) for value in values], padding=2)
        axis.set_title(heading)
        axis.margins(y=0.15)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    with writing(path):
        figure.savefig(path, dpi=120, format=picture_format(path))
    pyplot.close(figure)


def _change(result: Result, base: Result) -> float:
    return 100 * (result.perplexity / base.perplexity - 1)
