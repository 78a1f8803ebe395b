"""`umfa train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 30,
    length: Annotated[int, typer.Option(min=16, help="Tokens of text in a step.")] = 256,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapters.")] = 8,
    modes: Annotated[
        str, typer.Option(help="Of fp32, int8_kv, int4_kv, int8, torch; separated by commas.")
    ] = "fp32,int8_kv,int4_kv",
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the adapters and of the order of the text.")
    ] = 0,
    model: Annotated[
        Path | None, typer.Option(help="A GGUF file, instead of the model from PyPI.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    plot: Annotated[Path, typer.Option(help="Write the plot to this file.")] = Path(
        "umfa-train.png"
    ),
) -> None:
    """Fine-tune a real language model through FP32, INT8 and INT4 attention, side by side.

    Ctrl-C ends it early, and keeps what was done.
    """
    from umfa.train import command

    status = command(
        steps=steps,
        length=length,
        rank=rank,
        modes=[name.strip() for name in modes.split(",") if name.strip()],
        learning_rate=learning_rate,
        seed=seed,
        model=model,
        json=json,
        plot=plot,
    )
    raise typer.Exit(status)
