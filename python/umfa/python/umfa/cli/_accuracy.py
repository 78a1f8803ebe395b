"""`umfa bench --accuracy`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

import umfa
from umfa.bench import accuracy
from umfa.cli._shape import Problem


def measure(problem: Problem, quantized: str, seed: int) -> dict[str, Any]:
    """Prints what quantization changes, and returns the figures."""
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
        table.add_row(way.name, *cells)
    console.print(table)
    console.print(accuracy.DEFINITION, soft_wrap=True)
    for keys in accuracy.KEYS:
        console.print(f"{keys.name}: {keys.description}.", soft_wrap=True, highlight=False)
    return {
        "shape": str(problem),
        "seed": seed,
        "definition": accuracy.DEFINITION,
        "quantized": quantized,
        "results": [asdict(found) for found in results.values()],
    }
