"""`umfa explain`."""

# Annotations are evaluated here: typer on Python 3.9 cannot read postponed ones.

from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import umfa
from umfa.cli._shape import SHAPE_HELP, dtype_named, parse_problem


def explain(
    shape: Annotated[str, typer.Option(help=SHAPE_HELP)],
    kv_heads: Annotated[Optional[int], typer.Option(help="Heads of key and value.")] = None,
    keys: Annotated[Optional[int], typer.Option(help="Rows of key and value.")] = None,
    value_columns: Annotated[Optional[int], typer.Option(help="Columns of value.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    q: Annotated[Optional[str], typer.Option(help="Quantize the query: int8 or int4.")] = None,
    k: Annotated[Optional[str], typer.Option(help="Quantize the key: int8 or int4.")] = None,
    v: Annotated[Optional[str], typer.Option(help="Quantize the value: int8 or int4.")] = None,
    granularity: Annotated[str, typer.Option(help="tensor, row, block or channel.")] = "tensor",
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask.")] = False,
    bottom_right: Annotated[
        bool, typer.Option("--bottom-right", help="Align the diagonal with the last key.")
    ] = False,
    window: Annotated[Optional[int], typer.Option(help="Keys seen on both sides.")] = None,
    compute: Annotated[str, typer.Option(help="exact or fast.")] = "exact",
    backward: Annotated[bool, typer.Option("--backward", help="The gradients' plan.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, metal, or a name.")] = "auto",
) -> None:
    """Show how attention of a shape would be computed, why, and with how much memory."""
    problem = parse_problem(shape, kv_heads, keys, value_columns)
    element = dtype_named(dtype)
    # Never touched, so the system gives these arrays addresses but no memory.
    query = np.empty(problem.q_shape, element)
    key, value = np.empty(problem.k_shape, element), np.empty(problem.v_shape, element)
    options: dict[str, Any] = {
        "causal": causal,
        "alignment": "bottom_right" if bottom_right else "top_left",
        "window": window,
        "compute": compute,
        "precision": {"q": q, "k": k, "v": v},
        "granularity": granularity,
        "backward": backward,
    }
    with umfa.MFAContext(device) as context:
        plan = umfa.explain(query, key, value, context, **options)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for line in plan.splitlines():
        table.add_row(*line.split(": ", 1))
    Console().print(table)
