"""A picture of a run."""

from __future__ import annotations

from pathlib import Path

from umfa._files import picture_format, writing
from umfa.bench.cases import FORMATS_PRESET
from umfa.bench.engines import OURS
from umfa.bench.formats import title
from umfa.bench.modes import RULERS
from umfa.bench.record import Record, Row, by_case, rows


def draw(record: Record, path: Path) -> None:
    """One panel for each case: rates as bars, ours in colour. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    limits = record.limits()
    groups = {case: rows(group, limits) for case, group in by_case(record.results).items()}
    panels = {
        case: [row for row in group if row.rate is not None and row.result.storage not in RULERS]
        for case, group in groups.items()
    }
    panels = {case: group for case, group in panels.items() if group}
    if not panels:
        raise ValueError("nothing was measured that could be drawn")
    columns = min(3, len(panels))
    height = max(3.4, 0.14 * max(map(len, panels.values())))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5.2 * columns, height * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (case, group) in zip(axes.flat, panels.items()):
        # What counts bytes is compared by time: formats have different ones.
        timed = any(row.unit == "GB/s" for row in group)
        group = sorted(group, key=_slowness if timed else _rate)
        names = [f"{row.result.engine} {row.result.storage}" for row in group]
        values = [-1e3 * _slowness(row) if timed else _rate(row) for row in group]
        colours = ["#c2410c" if row.result.engine == OURS else "#94a3b8" for row in group]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
        axis.margins(x=0.15)
        special = case.preset == FORMATS_PRESET
        axis.set_title(title(case) if special else f"{case.preset}: {case.label}", fontsize=9)
        axis.set_xlabel("ms" if timed else "GFLOP/s", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.suptitle(
        f"{record.machine.get('processor', '')}, {record.settings.get('threads')} threads, "
        f"{record.date}",
        fontsize=10,
    )
    with writing(path):
        figure.savefig(path, dpi=130, format=picture_format(path))
    plt.close(figure)


def _rate(row: Row) -> float:
    return row.rate or 0.0


def _slowness(row: Row) -> float:
    """The less, the longer it takes: the fastest comes last, on top."""
    return -(row.result.median or 0.0)
