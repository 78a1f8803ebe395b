"""`umfa bench`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import umfa
from umfa._files import check_output, writing
from umfa.bench import (
    accuracy,
    cases,
    guide,
    masks,
    numbers,
    plot,
    process,
    record,
    report,
    session,
)
from umfa.bench.cases import Case
from umfa.bench.modes import MODES, NAMED
from umfa.bench.record import Record
from umfa.bench.runner import Result, Settings
from umfa.cli._shape import SHAPE_HELP, Keys, KvHeads, Problem, ValueColumns, parse_problem

WIDTH = 120
PEER_HELP = (
    "A library to compare with: NAME, NAME=PYTHON of an environment that has it, or "
    "ggml=LIBRARY. Repeatable. Without it: all that are installed here."
)

MODES_HELP = (
    f"Ours: {', '.join(MODES)}; in the preset {cases.FORMATS_PRESET} and with --shape also the "
    "formats of docs/quantization.md, such as int8_row_rotate."
)


def bench(
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated: {', '.join((*cases.PRESETS, cases.ALL))}; or {masks.PRESET}. "
            f"{cases.DEMO_PRESET} fetches the model of umfa demo."
        ),
    ] = None,
    shape: Annotated[str | None, typer.Option(help=SHAPE_HELP)] = None,
    kv_heads: KvHeads = None,
    keys: Keys = None,
    value_columns: ValueColumns = None,
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask.")] = False,
    training: Annotated[bool, typer.Option("--training", help="Forward and backward.")] = False,
    modes: Annotated[str | None, typer.Option(help=MODES_HELP)] = None,
    peer: Annotated[list[str] | None, typer.Option(help=PEER_HELP)] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="umfa alone.")] = False,
    neighbour: Annotated[
        bool, typer.Option("--neighbour", help="Again with one processor kept busy.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of every library; default: as umfa's.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="For each library and format of a case.")
    ] = Settings.seconds,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each, at most.")] = Settings.rounds,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a quiet machine, in all.")
    ] = session.Plan.patience,
    ceilings: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="From cargo xtask ceilings -- --json."),
    ] = None,
    check_targets: Annotated[
        bool, typer.Option("--check-targets", help="Say which of the project's aims are met.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write all figures to this file, a line of JSON for each."),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a line for each result to this file.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw the rates into this file.")
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Measure nothing: write this Markdown file from the records (--json) in "
            "the folder of the same name without .md, and the costs of formats into "
            "quantization.md beside it.",
        ),
    ] = None,
    errors: Annotated[
        bool, typer.Option("--accuracy", help="Measure errors of quantization instead of time.")
    ] = False,
    operands: Annotated[
        str, typer.Option(help="With --accuracy: which of q, k and v are quantized.")
    ] = "qkv",
    seed: Annotated[int, typer.Option(min=0, help="Of the random operands.")] = Settings.seed,
) -> None:
    """Time attention beside other libraries, or measure what quantization changes (--accuracy)."""
    if report_file is not None:
        _report(report_file)
        return
    for file in (json_file, csv_file):
        check_output(file)
    check_output(plot_file, picture=True)
    problem = parse_problem(shape or "1,8,512,64", kv_heads, keys, value_columns)
    if errors:
        if not operands or set(operands) - set("qkv"):
            raise typer.BadParameter(
                f'"{operands}", expected letters of qkv', param_hint="--operands"
            )
        if threads is not None:
            umfa.set_num_threads(threads)
        figures = _accuracy(problem, operands, seed)
        if json_file is not None:
            with writing(json_file):
                json_file.write_text(json.dumps(figures, indent=2) + "\n")
        return

    if preset == masks.PRESET:
        if threads is not None:
            umfa.set_num_threads(threads)
        times = _masks(seconds, seed)
        if json_file is not None:
            with writing(json_file):
                json_file.write_text(json.dumps(times, indent=2) + "\n")
        return

    chosen = _cases(preset or ("" if shape else "seeds"))
    if shape:
        sizes = (problem.batch, problem.heads, problem.rows, problem.columns)
        rest = (problem.kv_heads, problem.keys, problem.value_columns, causal)
        kind = cases.TRAINING if training else cases.FORWARD
        chosen.append(Case(cases.SHAPE_PRESET, *sizes, *rest, kind))
    plan = session.Plan(
        cases=chosen,
        peers=_peers(peer, no_peers),
        settings=Settings(
            threads=umfa.get_num_threads() if threads is None else threads,
            seconds=seconds,
            rounds=rounds,
            seed=seed,
            neighbour=neighbour,
            modes=_modes(modes),
        ),
        patience=patience,
        ceilings=ceilings,
    )
    found = _run(plan, json_file)
    _finish(found, check_targets)
    if csv_file is not None:
        with writing(csv_file):
            record.write_csv(found, csv_file)
    if plot_file is not None:
        plot.draw(found, plot_file)


def _cases(presets: str) -> list[Case]:
    try:
        return list(cases.preset_cases([name for name in presets.split(",") if name]))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--preset") from None


def _modes(text: str | None) -> tuple[str, ...]:
    names = tuple(name for name in (text or "").split(",") if name)
    unknown = [name for name in names if name not in NAMED]
    if unknown:
        raise typer.BadParameter(
            f'"{unknown[0]}", expected some of {", ".join(NAMED)}', param_hint="--modes"
        )
    return names


def _peers(given: list[str] | None, none: bool) -> list[tuple[str, Path | None]]:
    if none:
        return []
    try:
        return [process.parse_peer(text) for text in given or process.peers_here()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peer") from None


def _run(plan: session.Plan, json_file: Path | None) -> Record:
    console = _console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[step]}"),
    )
    # Drawn only when something is said: a thread that refreshes would disturb what is measured.
    progress = Progress(*columns, console=_console(stderr=True), transient=True, auto_refresh=False)
    task = progress.add_task("starting", total=len(plan.cases), step="")

    def begin(case: Case) -> None:
        progress.update(task, description=f"{case.preset} {case.label}", refresh=True)

    def step(text: str) -> None:
        progress.update(task, step=text, refresh=True)

    def waiting(seconds: float) -> None:
        progress.console.print(
            f"The machine is busy: waiting for quiet, up to {seconds:.0f} s in all "
            "(--patience 0 does not wait)."
        )

    def done(case: Case, results: Sequence[Result], so_far: Record) -> None:
        if results:
            console.print(report.case_grid(case, results, so_far.limits()).rich())
        if json_file is not None:
            # After each case, so that whatever ends the run leaves what was measured.
            so_far.write(json_file)
        progress.update(task, advance=1, refresh=True)

    with progress:
        return session.run(plan, session.Listener(begin, step, done, waiting))


def _finish(found: Record, check_targets: bool) -> None:
    console = _console()
    for grid in report.accuracy_grids(found.accuracy):
        console.print(grid.rich())
    for special in (report.memory_grid(found), report.demo_grid(found)):
        if special is not None:
            console.print(special.rich())
    for note in report.NOTES:
        console.print(note, soft_wrap=True, highlight=False)
    for name, value in report.circumstances(found):
        console.print(f"[bold]{name}:[/] ", end="")
        console.print(value, markup=False, soft_wrap=True, highlight=False)
    for text in report.refusals(found):
        console.print("[bold]not measured:[/] ", end="")
        console.print(text, markup=False, soft_wrap=True, highlight=False)
    targets = report.target_grid(found) if check_targets else None
    if targets is not None:
        console.print(targets.rich())


def _accuracy(problem: Problem, quantized: str, seed: int) -> dict[str, Any]:
    shapes = (problem.q_shape, problem.k_shape, problem.v_shape)
    with _console(stderr=True).status("measuring") as status:
        found = accuracy.measure_all(shapes, quantized, seed, status.update)
    console = _console()
    for grid in report.accuracy_grids(found):
        console.print(grid.rich())
    console.print(report.ERRORS, soft_wrap=True, highlight=False)
    return {
        "shape": str(problem),
        "seed": seed,
        "definition": accuracy.DEFINITION,
        "quantized": quantized,
        "results": [asdict(one) for one in found],
    }


def _masks(seconds: float, seed: int) -> list[dict[str, Any]]:
    with _console(stderr=True).status("measuring") as status:
        found = masks.measure_all(seconds, seed, status.update)
    table = Table(title="Masks: umfa alone, FP32", title_justify="left")
    for name in ("shape", "", "way", "ms", "x no mask"):
        table.add_column(name, justify="right" if name in ("ms", "x no mask") else "left")
    for one in found:
        first = one.way == "no mask"
        name, label = (one.shape, one.label) if first else ("", "")
        table.add_row(name, label, one.way, f"{one.seconds * 1e3:.3f}", f"{one.ratio:.2f}")
    _console().print(table)
    return masks.to_json(found)


def _console(stderr: bool = False) -> Console:
    """Tables are wider than the 80 columns that are assumed where there is no terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def _report(path: Path) -> None:
    try:
        records = numbers.read(path.with_suffix(""))
        path.write_text(numbers.render(records))
        guide.update(path.with_name("quantization.md"), records)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--report") from None
