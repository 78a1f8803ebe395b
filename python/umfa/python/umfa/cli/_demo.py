"""`umfa demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    tokens: Annotated[
        int, typer.Option(min=128, max=8192, help="Tokens of text to measure on.")
    ] = 2048,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 512 tokens, and short answers.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="A GGUF file, instead of the model from PyPI.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    plot: Annotated[Path, typer.Option(help="Write the plot to this file.")] = Path(
        "umfa-demo.png"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, metal, or a device's name.")] = "auto",
) -> None:
    """Run a real language model with FP32, INT8 and INT4 attention, and compare them."""
    from umfa.demo import command

    status = command(tokens=tokens, quick=quick, model=model, json=json, plot=plot, device=device)
    raise typer.Exit(status)
