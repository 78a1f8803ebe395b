"""What can be measured: one module for each library, imported only in the process that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import numpy.typing as npt

from umfa.bench.cases import Case
from umfa.bench.reference import Operands

Array = npt.NDArray[Any]

# Name, the module that must be importable for it, and the module here.
ENGINES = {
    "umfa": ("umfa", "_umfa"),
    "torch": ("torch", "_torch"),
    "onnxruntime": ("onnxruntime", "_onnxruntime"),
    "openvino": ("openvino", "_openvino"),
    "ggml": (None, "_ggml"),
    "jax": ("jax", "_jax"),
    "mlx": ("mlx", "_mlx"),
    "numpy": ("numpy", "_numpy"),
}
OURS = "umfa"
# Peers that are looked for. NumPy's plain formula is no rival, and ggml needs a path.
FOUND_BY_THEMSELVES = ("torch", "onnxruntime", "openvino", "jax", "mlx")


class Refused(Exception):
    """The library cannot compute this case in this format; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed; operands are converted and output memory is there."""

    run: Callable[[], object]
    # What the last run computed, (batch, heads, rows, columns) or the three gradients; None where
    # nothing is computed.
    output: Callable[[], Any] | None
    # What makes memory comparable: bytes that the library itself says it needs beside the output.
    workspace: int | None = None
    # Bytes of all that a run reads and writes, each once.
    bytes: int | None = None
    # Equal parts of a run; times and bytes are those of one part.
    parts: int = 1


class Engine(Protocol):
    """A library. Making one sets its number of threads."""

    @property
    def version(self) -> str:
        """As the library itself says."""
        ...

    def formats(self, case: Case, /) -> Sequence[str]:
        """Storage formats of the operands that it may accept for a case."""
        ...

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None, /) -> Prepared:
        """Converts operands and makes the call; raises `Refused` where it cannot.

        `mask`, BOOL (rows, keys), True to attend, is only given when memory is measured.
        """
        ...


def load(name: str, threads: int, library: str | None) -> Engine:
    """The engine of this name; `library` is a file that has it, where it is no Python package."""
    module = import_module(f"{__name__}.{ENGINES[name][1]}")
    return cast(Engine, module.make(threads, library))
