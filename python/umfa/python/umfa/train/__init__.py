"""Fine-tuning through quantized attention: the demo's SmolLM2 with FP32, INT8 and INT4 keys/values.

Needs the extra ``umfa[train]``: what the demo needs, PyTorch and psutil. None of them is imported
before :func:`run` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ._loop import Outcome

__all__ = ["command", "run"]


def run(
    *,
    steps: int = 30,
    length: int = 256,
    rank: int = 8,
    modes: Sequence[str] = ("fp32", "int8_kv", "int4_kv"),
    learning_rate: float = 1e-3,
    seed: int = 0,
    model: str | Path | None = None,
    json: str | Path | None = None,
    plot: str | Path | None = "umfa-train.png",
    console: Console | None = None,
) -> Outcome:
    """Fine-tune with each kind of attention on the same batches, and compare the losses.

    ``steps``: optimizer steps, one window of ``length`` tokens each. ``rank``: of the LoRA
    adapters. ``modes``: of the demo's (fp32, int8_kv, int4_kv, int8), and torch for PyTorch's own
    attention. ``model``: a Llama GGUF file with SmolLM2's tokenizer, instead of the demo's.
    ``json``, ``plot``: files to write, or None.

    Ctrl-C ends the training, not the report: what was done until then is returned, with
    ``interrupted`` set. Raises ``TrainError``, ``FetchError`` or ``ModelError`` (see
    :func:`command`) with a message for the user.
    """
    from rich.console import Console

    from ._app import Options
    from ._app import run as run_app

    def path(value: str | Path | None) -> Path | None:
        return None if value is None else Path(value).expanduser()

    options = Options(
        steps, length, rank, tuple(modes), learning_rate, seed, path(model), path(json), path(plot)
    )
    return run_app(options, console or Console())


def command(**options: Any) -> int:
    """:func:`run` for a command line: the exit status, with errors told in a message."""
    import os
    import sys

    # Before torch is imported: its threads otherwise spin after each product, on the cores that
    # attention's threads then need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from rich.console import Console

        from umfa._files import OutputError
        from umfa.demo._fetch import FetchError
        from umfa.demo._model import ModelError

        from ._app import TrainError
    except ImportError as error:
        print(f"umfa train needs '{error.name}': pip install 'umfa[train]'", file=sys.stderr)
        return 1
    console = Console(stderr=True)
    try:
        outcome = run(**options)
    except (TrainError, FetchError, ModelError, OutputError) as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except ImportError as error:
        console.print(f"[bold red]error:[/] umfa train needs '{error.name}': ", end="")
        console.print("pip install 'umfa[train]'", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    return 130 if outcome.interrupted else 0
