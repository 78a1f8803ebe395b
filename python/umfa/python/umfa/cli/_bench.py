"""`umfa bench`."""

# Annotations are evaluated here: typer on Python 3.9 cannot read postponed ones.

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import umfa
from umfa.bench import accuracy, timing
from umfa.cli._shape import SHAPE_HELP, Problem, parse_problem


def bench(
    shape: Annotated[str, typer.Option(help=SHAPE_HELP)] = "1,8,512,64",
    kv_heads: Annotated[Optional[int], typer.Option(help="Heads of key and value.")] = None,
    keys: Annotated[Optional[int], typer.Option(help="Rows of key and value.")] = None,
    value_columns: Annotated[Optional[int], typer.Option(help="Columns of value.")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask.")] = False,
    granularity: Annotated[str, typer.Option(help="tensor, row, block or channel.")] = "row",
    compute: Annotated[str, typer.Option(help="exact or fast.")] = "exact",
    seconds: Annotated[float, typer.Option(min=0.0, help="Time for each mode.")] = 1.0,
    threads: Annotated[Optional[int], typer.Option(min=0, help="Worker threads.")] = None,
    errors: Annotated[
        bool, typer.Option("--accuracy", help="Measure errors of quantization instead of time.")
    ] = False,
    operands: Annotated[
        str, typer.Option(help="With --accuracy: which of q, k and v are quantized.")
    ] = "qkv",
    seed: Annotated[int, typer.Option(min=0, help="Of the random operands.")] = 0,
    json_file: Annotated[
        Optional[Path], typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Time attention in each precision, or measure what quantization changes (--accuracy)."""
    problem = parse_problem(shape, kv_heads, keys, value_columns)
    if not operands or set(operands) - set("qkv"):
        raise typer.BadParameter(f'"{operands}", expected letters of qkv', param_hint="--operands")
    if threads is not None:
        umfa.set_num_threads(threads)
    if errors:
        figures = _accuracy(problem, operands, seed)
    else:
        options = {"causal": causal, "compute": compute}
        figures = _timing(problem, granularity, seconds, seed, options)
    if json_file is not None:
        json_file.write_text(json.dumps({"shape": str(problem), "seed": seed, **figures}, indent=2))


def _accuracy(problem: Problem, quantized: str, seed: int) -> dict[str, Any]:
    console = Console()
    results: dict[tuple[str, str], accuracy.Measured] = {}
    shapes = (problem.q_shape, problem.k_shape, problem.v_shape)
    for keys in track(accuracy.KEYS, "measuring", console=Console(stderr=True), transient=True):
        q, k, v = accuracy.operands(keys, shapes, seed)
        reference = umfa.attention(q, k, v)
        for way in accuracy.WAYS:
            found = accuracy.measure(way, keys, q, k, v, reference, quantized)
            results[way.name, keys.name] = found
    letters = "/".join(quantized.upper())
    table = Table(title=f"Error of quantized {letters}, {problem}", title_justify="left")
    table.add_column("")
    for keys in accuracy.KEYS:
        table.add_column(f"{keys.name}\n% O", justify="right")
        table.add_column("\n% V", justify="right")
    precision = accuracy.WAYS[0].precision
    for way in accuracy.WAYS:
        if way.precision != precision:
            table.add_section()
            precision = way.precision
        row = [results[way.name, keys.name] for keys in accuracy.KEYS]
        cells = [
            f"{100 * value:.3f}"
            for found in row
            for value in (found.relative_to_output, found.relative_to_values)
        ]
        table.add_row(
            way.name, *cells, end_section=way is accuracy.WAYS[len(accuracy.WAYS) // 2 - 1]
        )
    console.print(table)
    console.print(accuracy.DEFINITION, soft_wrap=True)
    for keys in accuracy.KEYS:
        console.print(f"{keys.name}: {keys.description}.", soft_wrap=True, highlight=False)
    return {
        "definition": accuracy.DEFINITION,
        "quantized": quantized,
        "results": [asdict(found) for found in results.values()],
    }


def _timing(
    problem: Problem, granularity: str, seconds: float, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = (problem.q_shape, problem.k_shape, problem.v_shape)
    q, k, v = (rng.standard_normal(s, np.float32) for s in shapes)
    calls = {
        mode.name: timing.prepare(mode, q, k, v, granularity, **options) for mode in timing.MODES
    }
    progress = track(
        timing.timings(calls, seconds),
        "measuring",
        total=len(calls),
        console=Console(stderr=True),
        transient=True,
    )
    results = list(progress)
    flops = problem.flops * (0.5 if options["causal"] else 1.0)
    table = Table(title=f"Attention, {problem}", title_justify="left")
    for heading in ("", "ms", "GFLOP/s", "times FP32"):
        table.add_column(heading, justify="left" if not heading else "right")
    for found in results:
        table.add_row(
            found.mode,
            f"{1e3 * found.seconds:.3f}",
            f"{flops / found.seconds / 1e9:.1f}",
            f"{results[0].seconds / found.seconds:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"Medians; operands quantized beforehand (granularity {granularity}); "
        f"{umfa.get_num_threads()} threads; GFLOP/s = 2 B H Nq Nk (D + Dv) / t, halved for causal.",
        soft_wrap=True,
        highlight=False,
    )
    return {
        "granularity": granularity,
        **options,
        "threads": umfa.get_num_threads(),
        "results": [{**asdict(found), "gflops": flops / found.seconds / 1e9} for found in results],
    }
