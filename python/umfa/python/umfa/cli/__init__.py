"""The command line: `umfa info`, `umfa demo`, `umfa train`, `umfa explain` and `umfa bench`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from umfa._errors import MFAError
from umfa.cli import _bench, _demo, _explain, _info, _train

app = typer.Typer(
    name="umfa",
    help="Exact attention on FP32, FP16, BF16, INT8 and INT4 operands.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("info")(_info.info)
app.command("demo")(_demo.demo)
app.command("train")(_train.train)
app.command("explain")(_explain.explain)
app.command("bench")(_bench.bench)


def main() -> None:
    """Runs the command line; what umfa refuses is told in a sentence, with exit status 1."""
    try:
        app()
    except MFAError as error:
        fail(str(error))


def fail(sentence: str) -> None:
    """Prints an error and ends the program with status 1."""
    console = Console(stderr=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
