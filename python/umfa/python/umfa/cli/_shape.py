"""Shapes on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

KvHeads = Annotated[int | None, typer.Option(min=1, help="Heads of key and value.")]
Keys = Annotated[int | None, typer.Option(min=0, help="Rows of key and value.")]
ValueColumns = Annotated[int | None, typer.Option(min=1, help="Columns of value.")]
SHAPE_HELP = "Batch, heads, rows and columns: 1,8,1024,64."
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Problem:
    """The sizes of one attention."""

    batch: int
    heads: int
    rows: int
    columns: int
    kv_heads: int
    keys: int
    value_columns: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of Q K^T and P V, without a mask."""
        scores = self.batch * self.heads * self.rows * self.keys
        return 2 * scores * (self.columns + self.value_columns)

    @property
    def q_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.heads, self.rows, self.columns)

    @property
    def k_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.kv_heads, self.keys, self.columns)

    @property
    def v_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.kv_heads, self.keys, self.value_columns)

    def __str__(self) -> str:
        text = f"B{self.batch} H{self.heads} N{self.rows} D{self.columns}"
        if self.kv_heads != self.heads:
            text += f" Hk{self.kv_heads}"
        if self.keys != self.rows:
            text += f" Nk{self.keys}"
        if self.value_columns != self.columns:
            text += f" Dv{self.value_columns}"
        return text


def parse_problem(
    shape: str, kv_heads: int | None, keys: int | None, value_columns: int | None
) -> Problem:
    """Reads "1,8,1024,64" (or with "x"), and what differs for keys and values."""
    if not re.fullmatch(r"\d+([,x]\d+){3}", shape):
        raise typer.BadParameter(
            f'"{shape}", expected batch, heads, rows and columns as in 1,8,1024,64',
            param_hint="--shape",
        )
    batch, heads, rows, columns = (int(size) for size in re.split("[,x]", shape))
    return Problem(
        batch,
        heads,
        rows,
        columns,
        heads if kv_heads is None else kv_heads,
        rows if keys is None else keys,
        columns if value_columns is None else value_columns,
    )


def dtype_named(name: str) -> npt.DTypeLike:
    """The NumPy dtype; bfloat16 is that of ml_dtypes."""
    if name not in DTYPES:
        raise typer.BadParameter(f'"{name}", expected {", ".join(DTYPES)}', param_hint="--dtype")
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise typer.BadParameter(
            "bfloat16 needs the package ml_dtypes: pip install ml_dtypes", param_hint="--dtype"
        ) from None
    dtype: Any = np.dtype(ml_dtypes.bfloat16)
    return dtype  # type: ignore[no-any-return]
