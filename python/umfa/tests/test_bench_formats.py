"""The preset `formats`: what is measured, what is made of it, and what the guide says of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import umfa
from umfa.bench import cases, formats, guide, plot, record, report
from umfa.bench.cases import APPEND, DEQUANTIZE, PRESETS, QUANTIZE, STORING, Case, case
from umfa.bench.engines import Refused
from umfa.bench.engines import _umfa as ours
from umfa.bench.engines._storing import nbytes
from umfa.bench.modes import CACHE_FORMATS, COPY, FROM_FLOATS, MODES, READ, TENSORS
from umfa.bench.quiet import Quiet
from umfa.bench.record import Record
from umfa.bench.reference import operands
from umfa.bench.runner import InterleavedRun, Result, Settings
from umfa.cli import app

DECODE = case(cases.FORMATS_PRESET, 1, 4, 1, 64, kv_heads=2, keys=96)
PREFILL = case(cases.FORMATS_PRESET, 1, 4, 40, 64, kv_heads=2, keys=64, causal=True)
STORED = tuple(
    case(cases.FORMATS_PRESET, 1, 2, 1 if kind == APPEND else 128, 64, keys=128, kind=kind)
    for kind in STORING
)
QUANTIZED = [name for name, mode in CACHE_FORMATS.items() if mode.precision]


def measured(one: Case, *modes: str) -> dict[str, Result]:
    settings = Settings(threads=1, seconds=0.0, rounds=1, modes=modes)
    with InterleavedRun([("numpy", None)], settings) as run:
        return {r.storage: r for r in run.measure(one, Quiet(0), lambda _: None)}


# What is measured.


def test_the_preset_has_every_kind_of_work() -> None:
    found = PRESETS[cases.FORMATS_PRESET]
    assert [one.keys for one in found if one.decode] == [4096, 32768]
    assert [one.kind for one in found if one.stores] == [QUANTIZE, DEQUANTIZE, APPEND]
    assert not any(one.decode for one in found if one.stores)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_format_within_the_call_is_the_prepared_one(name: str) -> None:
    """Bit by bit, so the column "from floats" is the same work and the quantizing."""
    mode = CACHE_FORMATS[name]
    given = operands(PREFILL, 3)
    options: dict[str, Any] = {"causal": True, "alignment": "top_left"}
    q, k, v = (
        umfa.quantize(array, mode.precision, **mode.keywords(letter))  # type: ignore[arg-type]
        if letter in mode.quantized
        else array
        for letter, array in zip("qkv", (given.q, given.k, given.v))
    )
    prepared = umfa.attention(q, k, v, **options)
    found = umfa.attention(given.q, given.k, given.v, **options, **mode.in_call())  # type: ignore[call-overload]
    assert np.array_equal(found, prepared)


def test_prefill_is_measured_from_floats_too() -> None:
    names = ("fp32", "int4_recommended")
    found = measured(PREFILL, *names)
    assert list(found) == [READ, *names, names[1] + FROM_FLOATS]
    prepared, floats = found[names[1]], found[names[1] + FROM_FLOATS]
    assert prepared.error == floats.error
    assert 0.01 < (prepared.error or 0) < 0.2
    assert found[READ].error is None
    assert found[READ].bytes == 4 * PREFILL.kv_elements
    # Q and O in FP32; of K and V 4 bits each, and 3 bytes for the scale and zero point of 32.
    assert prepared.bytes == 2 * 4 * 4 * 40 * 64 + PREFILL.kv_elements * (16 + 3) // 32
    assert all(result.refused is None and result.median for result in found.values())


def test_decoding_quantizes_nothing_and_has_no_peers() -> None:
    found = measured(DECODE)
    assert list(found) == [READ, *CACHE_FORMATS]
    assert {result.engine for result in found.values()} == {"umfa"}
    assert all(result.refused is None for result in found.values())


@pytest.mark.parametrize("one", STORED, ids=lambda one: one.kind)
def test_storing_reads_back_what_it_wrote(one: Case) -> None:
    found = measured(one)
    assert list(found) == [COPY, *TENSORS]
    assert found["fp32"].error == 0
    for name, result in found.items():
        assert result.refused is None
        assert result.median
        if name.startswith("int"):
            least, most = (0.002, 0.012) if name.startswith("int8") else (0.05, 0.2)
            assert least < (result.error or 0) < most
    row = 2 * 64
    floats, integers = (4 + 4) * row, (4 + 1) * row + 2 * 4
    rows = 1 if one.kind == APPEND else 128
    assert found["fp32"].bytes == floats * rows
    assert found["int8_row"].bytes == integers * rows


def test_rows_that_share_scales_are_appended_together() -> None:
    assert (TENSORS["int8_row"].rows_at_once, TENSORS["int4_block"].rows_at_once) == (1, 64)
    assert TENSORS["int4_recommended_k"].rows_at_once == 32
    engine = ours.make(1, None)
    one = STORED[-1]
    block = engine.prepare(one, "int4_recommended_k", operands(one, 0), None)
    assert block.parts == 32
    block.run()
    block.run()
    assert block.output is not None
    assert block.output().shape == (1, 2, 32, 64)
    short = replace(one, keys=31)
    with pytest.raises(Refused, match="a cache of 31 rows, expected at least the 32"):
        engine.prepare(short, "int4_recommended_k", operands(short, 0), None)


def test_odd_columns_have_no_int4() -> None:
    odd = replace(DECODE, columns=33, value_columns=33)
    names = ours.make(1, None).formats(odd)
    assert "int8_row" in names
    assert not [name for name in names if name.startswith("int4")]


def test_formats_may_be_chosen_for_a_shape() -> None:
    one = case(cases.SHAPE_PRESET, 1, 2, 16, 64)
    found = measured(one, "int8_channel")
    assert [name for name in found if name != "fp32"] == [
        "int8_channel",
        "int8_channel" + FROM_FLOATS,
    ]
    assert found.keys() & {"fp32"}  # NumPy's: modes choose among ours
    everything = measured(one)
    assert not everything.keys() & set(QUANTIZED)
    assert everything.keys() >= {*MODES, "int8" + FROM_FLOATS}


# What is made of it.


def result(one: Case, storage: str, median: float, size: int) -> Result:
    return Result(one, "umfa", storage, 0.01, median, median, 5, [median], bytes=size)


def test_costs_are_over_fp32_over_fp16_and_over_bytes() -> None:
    results = [
        result(PREFILL, READ, 1e-3, 10_000_000),
        result(PREFILL, "fp32", 8e-3, 20_000_000),
        result(PREFILL, "fp16", 4e-3, 10_000_000),
        result(PREFILL, "int8_row", 2e-3, 5_000_000),
        result(PREFILL, "int8_row" + FROM_FLOATS, 6e-3, 20_000_000),
        Result(PREFILL, "umfa", "int4_row", refused="no"),
    ]
    found = {cost.result.storage: cost for cost in formats.costs(PREFILL, results)}
    assert list(found) == ["fp32", "fp16", "int8_row"]
    row = found["int8_row"]
    assert (row.over_fp32, row.over_fp16) == (0.25, 0.5)
    assert row.over_bytes == pytest.approx(2e-3 / 0.5e-3)
    assert (row.from_floats, row.from_floats_over_fp32) == (6e-3, 0.75)
    assert row.of_copy is None
    grid = report.case_grid(PREFILL, results, None)
    assert grid.title.endswith("; plain read 10 GB/s")
    line = dict(zip(grid.headings, grid.lines[2]))
    assert line == {
        "": "int8_row",
        "ms": "2",
        "over FP32": "0.25",
        "over FP16": "0.5",
        "over bytes": "4",
        "from floats": "6",
        "that over FP32": "0.75",
        "error": "0.01",
    }


def test_storing_is_held_against_a_copy() -> None:
    one = STORED[0]
    results = [
        result(one, COPY, 1e-3, 8_000_000),
        result(one, "fp32", 1e-3, 8_000_000),
        result(one, "int8_row_rotate", 4e-3, 5_000_000),
    ]
    assert [cost.of_copy for cost in formats.costs(one, results)] == [1.0, 0.25]
    grid = report.case_grid(one, results, None)
    assert grid.headings == ["", "ms", "over FP32", "over bytes", "of copy", "error"]
    assert grid.lines[1][4] == "25 %"
    assert grid.ours == [False, True]
    append = replace(one, kind=APPEND)
    appended = [replace(r, case=append, median=(r.median or 0) / 100) for r in results]
    grid = report.case_grid(append, appended, None)
    assert grid.headings == ["", "us", "over FP32", "over bytes", "error"]
    assert grid.lines[0][1] == "10"


def test_a_ruler_that_is_missing_leaves_its_column_out() -> None:
    found = formats.costs(DECODE, [result(DECODE, "int8_row", 1e-3, 1000)])
    assert (found[0].over_fp32, found[0].over_fp16, found[0].over_bytes) == (None, None, None)
    grid = report.case_grid(DECODE, [found[0].result], None)
    assert grid.headings == ["", "ms", "error"]


def test_from_floats_is_a_column_beside_the_prepared_call() -> None:
    one = PRESETS["seeds"][0]
    results = [
        Result(one, "torch", "fp32", 0.0, 4e-3, 4e-3),
        result(one, "fp32", 4e-3, 1),
        result(one, "int8", 2e-3, 1),
        result(one, "int8" + FROM_FLOATS, 3e-3, 1),
    ]
    rows = record.rows(results, None)
    assert [row.result.storage for row in rows] == ["fp32", "int8", "fp32"]
    assert [row.from_floats for row in rows] == [None, 3e-3, None]
    grid = report.case_grid(one, results, None)
    at = grid.headings.index("from floats")
    assert [line[at] for line in grid.lines] == ["", "3", ""]
    assert {len(line) for line in grid.lines} == {len(grid.headings)}
    assert "from floats" not in report.case_grid(one, results[:-1], None).headings


def test_files_have_formats(tmp_path: Path) -> None:
    found = Record(results=[result(STORED[0], "int8_row", 2e-3, 4_000_000)])
    record.write_csv(found, tmp_path / "run.csv")
    line = next(csv.DictReader((tmp_path / "run.csv").read_text().splitlines()))
    assert (line["kind"], line["format"], line["unit"]) == (QUANTIZE, "int8_row", "GB/s")
    assert float(line["rate"]) == 2.0
    found.write(tmp_path / "run.jsonl")
    assert Record.read(tmp_path / "run.jsonl") == found


def test_bench_runs_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, cases.FORMATS_PRESET, (DECODE, STORED[-1]))
    line = "bench --preset formats --modes fp32,int8_row_rotate --no-peers --seconds 0"
    more = ["--rounds", "1", "--patience", "0", "--json", str(tmp_path / "run.jsonl")]
    outcome = CliRunner().invoke(app, [*line.split(), *more])
    assert outcome.exit_code == 0, outcome.output
    assert "formats, decode: B1 H4 Hkv2 N1 Nk96 D64; plain read" in outcome.output
    assert "formats, append a row: B1 H2 N1 Nk128 D64; plain copy" in outcome.output
    names = [r.storage for r in Record.read(tmp_path / "run.jsonl").results]
    assert names == [READ, "fp32", "int8_row_rotate", COPY, "fp32", "int8_row_rotate"]


def test_a_picture_has_the_formats_and_not_the_rulers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    titles: list[str] = []
    names: list[list[str]] = []

    def save(self: Any, path: Path, **_: Any) -> None:
        titles.extend(axis.get_title() for axis in self.axes)
        names.extend([label.get_text() for label in axis.get_yticklabels()] for axis in self.axes)
        path.touch()

    monkeypatch.setattr(figure.Figure, "savefig", save)
    found = [
        result(DECODE, READ, 1e-3, 1000),
        result(DECODE, "fp32", 1e-3, 1000),
        result(DECODE, "int8_row", 2e-3, 250),
    ]
    plot.draw(Record(found), tmp_path / "plot.png")
    assert titles == [f"formats, decode: {DECODE.label}"]
    # From below: the fastest on top, though it moves fewer bytes a second.
    assert names == [["umfa int8_row", "umfa fp32"]]


# What the guide says.


@pytest.mark.parametrize("name", list(TENSORS))
def test_bytes_of_an_element_are_those_that_are_stored(name: str) -> None:
    stored = TENSORS[name]
    array = np.zeros((1, 2, 1024, 128), np.float32)
    if stored.mode.precision is None:
        size = float(np.dtype(stored.mode.dtype).itemsize)
    else:
        tensor = umfa.quantize(array, **stored.keywords)
        size = nbytes(tensor) / array.size
    # The scale of a tensor, or a mean for each column, are shared by all rows.
    assert stored.bytes_an_element(128) == pytest.approx(size, abs=4 / 1024)
    assert stored.bytes_an_element(128) <= size


def test_keywords_are_those_of_quantize() -> None:
    assert guide.keywords(CACHE_FORMATS["fp16"]) == "arrays of `float16`"
    assert guide.keywords(CACHE_FORMATS["int8_row_smooth"]) == (
        'K, V: `"int8", "row"`; K: `smooth=True`'
    )
    assert guide.keywords(CACHE_FORMATS["int4_recommended"]) == (
        'K, V: `"int4", symmetric=False, scale_dtype="float16", rotate=True`; '
        'K: `granularity="channel", block_rows=32`; V: `granularity="row", group=32`'
    )


def test_the_guide_has_a_table_for_each_record_with_formats() -> None:
    machine = {"processor": "some", "cores": 2, "isa": "avx2"}
    results = [
        result(DECODE, "fp32", 4e-3, 1),
        result(DECODE, "int4_recommended", 1e-3, 1),
        result(STORED[0], COPY, 1e-3, 1),
        result(STORED[0], "int4_recommended_k", 4e-3, 1),
        result(STORED[-1], "int8_row", 3e-6, 1),
    ]
    found = Record(results, machine=machine, settings={"threads": 2}, date="2026-01-02 00:00 UTC")
    page = f"before\n{guide.BEGIN}\nold\n{guide.END}\nafter\n"
    made = guide.render(page, [("other", Record([])), ("machine", found)])
    assert made.startswith(f"before\n{guide.BEGIN}\n\n| name | keywords |")
    assert made.endswith(f"\n\n{guide.END}\nafter\n")
    assert "old" not in made
    assert "other" not in made
    tail = made.partition("machine (some, 2 cores, avx2; 2 threads; 2026-01-02):\n\n")[2]
    assert tail.splitlines()[:6] == [
        "|  | decode, 96 keys, over FP32 | quantize, of a copy | append a row, us | error |",
        "| :-- | --: | --: | --: | --: |",
        "| `fp32` | 1 |  |  | 0.01 |",
        "| `int8_row` |  |  | 3 |  |",
        "| **`int4_recommended`** | **0.25** |  |  | **0.01** |",
        "| **`int4_recommended_k`** |  | **25 %** |  |  |",
    ]
    assert guide.render(made, [("other", Record([])), ("machine", found)]) == made


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "quantization.md"
    page.write_text("no place")
    with pytest.raises(ValueError, match="expected the lines"):
        guide.update(page, [])
    guide.update(tmp_path / "none.md", [])
    assert not (tmp_path / "none.md").exists()
