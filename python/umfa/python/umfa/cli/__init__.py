"""The command line: `umfa info`, `umfa demo`, `umfa train`, `umfa explain` and `umfa bench`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from umfa._errors import MFAError
from umfa._files import OutputError
from umfa._native import __version__
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


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"umfa {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What comes before a command. Its help is the program's."""


def main() -> None:
    """Runs the command line; what umfa refuses is told in a message, with exit status 1."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where what goes wrong can be told
    except (MFAError, OutputError) as error:
        fail(str(error))
    except OSError as error:
        # What is left in the buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = f"'{error.filename}'" if error.filename else "cannot write the output"
        fail(f"{what}: {error.strerror or error}")


def fail(message: str) -> None:
    """Prints an error and ends the program with status 1."""
    console = Console(stderr=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
