"""`umfa explain`."""

from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import umfa
from umfa.cli._shape import SHAPE_HELP, Keys, KvHeads, ValueColumns, dtype_named, parse_problem

EACH = "or as k=...,v=..."


def each(text: str | None, kind: type, flag: str) -> Any:
    """One value for the operands that are quantized, or a mapping from some of them."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return kind(text)
        pairs = [item.split("=", 1) for item in text.split(",")]
        return {operand.strip(): kind(value) for operand, value in pairs}
    except ValueError:
        raise typer.BadParameter(
            f'"{text}", expected one value or a list as in k=...,v=...', param_hint=flag
        ) from None


def explain(
    shape: Annotated[str, typer.Option(help=SHAPE_HELP)],
    kv_heads: KvHeads = None,
    keys: Keys = None,
    value_columns: ValueColumns = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    q: Annotated[str | None, typer.Option(help="Quantize the query: int8 or int4.")] = None,
    k: Annotated[str | None, typer.Option(help="Quantize the key: int8 or int4.")] = None,
    v: Annotated[str | None, typer.Option(help="Quantize the value: int8 or int4.")] = None,
    granularity: Annotated[
        str | None, typer.Option(help=f"tensor, row, block or channel; {EACH}")
    ] = None,
    block_rows: Annotated[str | None, typer.Option(help=f"Rows of a block; {EACH}")] = None,
    group: Annotated[str | None, typer.Option(help=f"Columns of a group, 32 or 64; {EACH}")] = None,
    scale_dtype: Annotated[str | None, typer.Option(help=f"float32 or float16; {EACH}")] = None,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="With zero points.")] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Without the keys' mean.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="Rotated by Hadamard.")] = False,
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask.")] = False,
    bottom_right: Annotated[
        bool, typer.Option("--bottom-right", help="Align the diagonal with the last key.")
    ] = False,
    window: Annotated[int | None, typer.Option(help="Keys attended to on both sides.")] = None,
    compute: Annotated[str, typer.Option(help="exact or fast.")] = "exact",
    backward: Annotated[bool, typer.Option("--backward", help="The gradients' plan.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, metal, or a name.")] = "auto",
) -> None:
    """Show how attention of a shape would be computed, why, and with how much memory."""
    problem = parse_problem(shape, kv_heads, keys, value_columns)
    element = dtype_named(dtype)
    shapes = (problem.q_shape, problem.k_shape, problem.v_shape)
    try:
        # Never touched, so the system gives these arrays addresses but no memory.
        query, key, value = (np.empty(sizes, element) for sizes in shapes)
    except (MemoryError, OverflowError, ValueError):
        raise typer.BadParameter(
            "more elements than memory can have", param_hint="--shape"
        ) from None
    options: dict[str, Any] = {
        "causal": causal,
        "alignment": "bottom_right" if bottom_right else "top_left",
        "window": window,
        "compute": compute,
        "precision": {"q": q, "k": k, "v": v},
        "granularity": each(granularity, str, "--granularity"),
        "block_rows": each(block_rows, int, "--block-rows"),
        "group": each(group, int, "--group"),
        "scale_dtype": each(scale_dtype, str, "--scale-dtype"),
        "symmetric": False if asymmetric else None,
        "smooth": smooth or None,
        "rotate": rotate or None,
        "backward": backward,
    }
    options = {name: value for name, value in options.items() if value is not None}
    with umfa.MFAContext(device) as context:
        plan = umfa.explain(query, key, value, context, **options)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for line in plan.splitlines():
        table.add_row(*line.split(": ", 1))
    Console().print(table)
