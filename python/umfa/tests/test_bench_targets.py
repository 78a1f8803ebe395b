"""The targets of the bench, by class of machine; the summary of the page; the demo in a record."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from umfa import demo
from umfa.bench import cases, numbers, report, summary, targets
from umfa.bench.cases import PRESETS, QUANTIZE, Case
from umfa.bench.demo import Decoded, DemoFailed, measure
from umfa.bench.memory import Memory
from umfa.bench.modes import CACHE_FORMATS, COPY, FROM_FLOATS, READ, TENSORS
from umfa.bench.record import SWITCHES, Record, machine
from umfa.bench.runner import Result, Settings
from umfa.cli import app
from umfa.demo._evaluate import Result as DemoResult
from umfa.demo._fetch import FetchError

FORMATS = PRESETS[cases.FORMATS_PRESET]
LONG = next(one for one in FORMATS if one.keys == targets.LONG)
PREFILL = next(one for one in FORMATS if not one.decode and not one.stores)
STORE = next(one for one in FORMATS if one.kind == QUANTIZE)


def result(one: Case, engine: str, storage: str, median: float, size: int = 0) -> Result:
    return Result(one, engine, storage, 0.01, median, median, 5, [median], bytes=size or None)


def decoded(mode: str, speed: float, alone: float = 0.002) -> Decoded:
    return Decoded("B1", mode, 12.0, 1_000_000, 1.0, speed, alone)


def record(isa: str, *results: Result, **rest: Any) -> Record:
    machine = {"isa": isa, "processor": "some", "cores": 2}
    return Record(list(results), machine=machine, settings={"threads": 2}, **rest)


def judged(found: Record) -> dict[str, tuple[float, Any, bool]]:
    outcomes = targets.outcomes(found)
    assert len({one.what for one in outcomes}) == len(outcomes)
    return {one.what: (one.wanted, one.found, one.met) for one in outcomes}


@pytest.mark.parametrize(
    ("isa", "name"),
    [
        ("avx512amx", "AMX"),
        ("avx512vnni", "AVX-512"),
        ("avx512", "AVX-512"),
        ("avx2", "AVX2"),
        ("scalar", "AVX2"),
    ],
)
def test_machines_have_classes(isa: str, name: str) -> None:
    assert targets.of_machine(record(isa)).name == name


def test_every_class_has_all_shapes_and_decodings() -> None:
    for aims in (targets.AVX2, targets.AVX512, targets.AMX):
        assert len(aims.forward) == len(targets.SHAPES)
        assert set(aims.decode_peer) == {one.keys for one in PRESETS["decode"]}
    encoder = targets.SHAPES.index(PRESETS["encoder"][0])
    assert targets.AVX2.forward[encoder] == (1.4, 1.8)
    assert targets.AVX2.forward[encoder - 1] == (1.25, 2.2)
    decoded_names = {f"{p}_{ending}" for p, ends in targets.DECODED.items() for ending in ends}
    assert decoded_names <= CACHE_FORMATS.keys()
    quantized = {ending for endings in targets.QUANTIZED.values() for ending in endings}
    assert {f"int4_{ending}" for ending in quantized} <= TENSORS.keys()


@pytest.mark.parametrize(("isa", "met"), [("avx2", True), ("avx512vnni", False)])
def test_decoding_and_prefill_are_held_against_our_fp32(isa: str, met: bool) -> None:
    found = judged(
        record(
            isa,
            result(LONG, "umfa", "fp32", 100e-3),
            result(LONG, "umfa", "int8_channel", 29e-3),
            result(LONG, "umfa", "int4_recommended", 19e-3),
            result(LONG, "umfa", "int8_tensor", 99e-3),
            result(PREFILL, "umfa", "fp32", 10e-3),
            result(PREFILL, "umfa", "int8_row_rotate", 9e-3),
            result(PREFILL, "umfa", "int8_row_rotate" + FROM_FLOATS, 99e-3),
            result(PREFILL, "umfa", "int8_tensor", 99e-3),
        )
    )
    int8, int4, prefill = (0.30, 0.20, 1.0) if isa == "avx2" else (0.28, 0.18, 1.25)
    over = "over our fp32"
    assert found == {
        f"decode {LONG.label}: time of int8_channel {over}": (int8, pytest.approx(0.29), met),
        f"decode {LONG.label}: time of int4_recommended {over}": (int4, pytest.approx(0.19), met),
        f"prefill {PREFILL.label}: int8_row_rotate {over}": (prefill, pytest.approx(10 / 9), met),
    }


def test_a_target_has_beside_it_what_the_peaks_allow() -> None:
    rates = (
        ("vfmadd231ps", "GFLOP/s", 512.0),
        ("vpdpbusd", "GOP/s", 2048.0),
        ("vpdpwssd", "GOP/s", 1024.0),
        ("read from memory", "GB/s", 80.0),
        ("softmax step to f32", "G/s", 1e9),
        ("softmax step to i16", "G/s", 1e9),
        ("softmax step to u8", "G/s", 1e9),
    )
    entries = [{"name": n, "unit": u, "by_threads": {"2": rate}} for n, u, rate in rates]
    ceilings = {"isa": "avx512vnni", "ceilings": entries}
    results = [
        result(LONG, "umfa", name, time) for name, time in (("fp32", 4e-3), ("int4_row", 1e-3))
    ]
    results += [
        result(PREFILL, "umfa", name, time)
        for name, time in (("fp32", 1.0), ("int8_row_rotate", 0.8), ("int4_recommended", 0.9))
    ]
    found = {one.what: one for one in targets.outcomes(record("avx512vnni", *results))}
    assert all(one.limit is None for one in found.values())
    limited = record("avx512vnni", *results, ceilings=ceilings)
    found = {one.what: one for one in targets.outcomes(limited)}
    # 32 rows of 128 + 128 columns against 32,768 keys: 2 * 2^28 operations at 512 GFLOP/s.
    decode = found[f"decode {LONG.label}: time of int4_row over our fp32"]
    assert decode.limit == pytest.approx(2 * 2**28 / 512e9 / 4e-3, rel=1e-3)
    assert decode.beyond_peaks
    assert "not within the measured peaks" in summary.grid("some", limited).markdown()
    scores = PREFILL.scores * PREFILL.columns
    mixed = found[f"prefill {PREFILL.label}: int8_row_rotate over our fp32"]
    assert mixed.limit == pytest.approx(1 / (scores * (2 / 512e9 + 2 / 1024e9)), rel=1e-3)
    floats = found[f"prefill {PREFILL.label}: int4_recommended over our fp32"]
    assert floats.limit == pytest.approx(1 / (scores * 4 / 512e9), rel=1e-3)
    grid = report.target_grid(limited)
    assert grid is not None
    assert grid.headings[3] == "limit"


def test_quantizing_is_held_against_a_copy() -> None:
    found = judged(
        record(
            "avx2",
            result(STORE, "umfa", COPY, 1e-3, 8),
            result(STORE, "umfa", "int8_row", 2.1e-3),
            result(STORE, "umfa", "int8_row_rotate", 2.1e-3),
            result(STORE, "umfa", "int4_recommended_k", 2.8e-3),
            result(STORE, "umfa", "int4_row_smooth", 9e-3),
        )
    )
    name = f"quantize {STORE.label}: rate of "
    assert {what.removeprefix(name): outcome for what, outcome in found.items()} == {
        "int8_row over a copy's": (50, pytest.approx(100 / 2.1), False),
        "int8_row_rotate over a copy's": (40, pytest.approx(100 / 2.1), True),
        "int4_recommended_k over a copy's": (35, pytest.approx(100 / 2.8), True),
    }


def test_training_on_avx2_is_held_against_the_best_of_torch() -> None:
    one = PRESETS["training"][0]
    results = [
        result(one, "torch", "fp32", 14e-3),
        result(one, "torch", "fp16", 90e-3),
        result(one, "umfa", "fp32", 10e-3),
        result(one, "umfa", "fp16", 11.5e-3),
    ]
    name = f"training {one.label}: "
    assert judged(record("avx2", *results)) == {
        name + "fp32 over torch fp32": (1.3, pytest.approx(1.4), True),
        name + "fp16 over torch's fastest, fp32": (1.25, pytest.approx(14 / 11.5), False),
    }
    wide = judged(record("avx512vnni", *results))
    assert wide[name + "fp16 over torch fp16"] == (3.0, pytest.approx(90 / 11.5), True)


def test_decoding_over_peers_depends_on_the_class() -> None:
    one = PRESETS["decode"][1]
    results = [result(one, "torch", "fp16 folded", 10e-3), result(one, "umfa", "int4_kv", 2e-3)]
    what = f"decode {one.label}: time of int4_kv over torch fp16 folded"
    assert judged(record("avx2", *results)) == {what: (0.22, pytest.approx(0.2), True)}
    assert judged(record("avx512amx", *results)) == {what: (0.18, pytest.approx(0.2), False)}


def test_the_demo_must_decode_no_slower_than_with_fp32() -> None:
    found = record(
        "avx2", demo=[decoded("fp32", 10), decoded("int8_kv", 12), decoded("int4_kv", 9)]
    )
    assert judged(found) == {
        "demo: decoding with int8_kv over fp32": (1.0, pytest.approx(1.2), True),
        "demo: decoding with int4_kv over fp32": (1.0, pytest.approx(0.9), False),
    }
    grid = report.target_grid(found)
    assert grid is not None
    assert grid.title == "targets (AVX2)"
    assert grid.lines[1] == ["demo: decoding with int4_kv over fp32", "≥ 1", "0.9", "not met"]


# The demo as a part of a run.


def figures(speed: float) -> DemoResult:
    return DemoResult(12.0, 1_000_000, 1.5, speed, 0.003, 0.1, "text")


def test_the_demo_runs_on_as_many_tokens_as_the_case_has_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}

    def run(**options: Any) -> dict[str, DemoResult]:
        given.update(options)
        return {"fp32": figures(10.0), "int4_kv": figures(20.0)}

    monkeypatch.setattr(demo, "run", run)
    one = PRESETS[cases.DEMO_PRESET][0]
    found = measure(one, Settings(threads=1), lambda _: None)
    assert (given["tokens"], given["plot"]) == (2048, None)
    assert found[1] == Decoded(one.label, "int4_kv", 12.0, 1_000_000, 1.5, 20.0, 0.003)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FetchError("no network"), "no network"),
        (ModuleNotFoundError("x", name="gguf"), "needs 'gguf': pip install 'umfa\\[demo\\]'"),
    ],
)
def test_a_demo_that_cannot_run_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(demo, "run", fail)
    one = PRESETS[cases.DEMO_PRESET][0]
    with pytest.raises(DemoFailed, match=message):
        measure(one, Settings(threads=1), lambda _: None)


@pytest.mark.parametrize("works", [True, False])
def test_the_preset_demo_is_a_table_and_targets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, works: bool
) -> None:
    def run(**_: Any) -> dict[str, DemoResult]:
        if not works:
            raise FetchError("no network")
        return {"fp32": figures(10.0), "int4_kv": figures(20.0)}

    monkeypatch.setattr(demo, "run", run)
    path = tmp_path / "run.jsonl"
    line = "bench --preset demo --no-peers --threads 1 --patience 0 --check-targets --json"
    outcome = CliRunner().invoke(app, [*line.split(), str(path)])
    assert outcome.exit_code == 0, outcome.output
    found = Record.read(path)
    if works:
        assert [one.mode for one in found.demo] == ["fp32", "int4_kv"]
        assert "ms/token" in outcome.output
        assert "demo: decoding with int4_kv over fp32" in outcome.output
    else:
        assert found.demo == []
        assert "umfa demo: no network" in outcome.output


# The page.


def table(grid: report.Grid) -> dict[str, str]:
    return dict(grid.lines)


@pytest.fixture
def full() -> Record:
    seeds, decode, training = (PRESETS[name] for name in ("seeds", "decode", "training"))
    append = replace(STORE, rows=1, kind=cases.APPEND)
    results = [
        result(seeds[0], "torch", "fp32", 3e-3),
        result(seeds[0], "umfa", "fp32", 2e-3),
        result(seeds[1], "torch", "fp32", 8e-3),
        result(seeds[1], "umfa", "fp32", 4e-3),
        result(decode[0], "torch", "fp16", 1e-3),
        result(decode[0], "umfa", "int8_kv", 1e-3),
        result(decode[1], "torch", "fp16", 8e-3),
        result(decode[1], "umfa", "int8_kv", 2e-3),
        result(training[0], "torch", "fp32", 3e-3),
        result(training[0], "umfa", "fp32", 2e-3),
        result(LONG, "umfa", READ, 1e-3, 1000),
        result(LONG, "umfa", "fp32", 10e-3, 1000),
        result(LONG, "umfa", "int8_row_rotate", 3e-3, 250),
        result(LONG, "umfa", "int8_channel", 62e-3, 250),
        result(PREFILL, "umfa", "fp32", 10e-3),
        result(PREFILL, "umfa", "int4_recommended", 8e-3),
        result(PREFILL, "umfa", "int4_recommended" + FROM_FLOATS, 20e-3),
        result(STORE, "umfa", COPY, 1e-3),
        result(STORE, "umfa", "int8_row_rotate", 2e-3),
        result(append, "umfa", "int8_row_rotate", 4e-6),
        result(PREFILL, "umfa", READ, 1e-3, 1000),
        result(PRESETS["overhead"][0], "umfa", "fp32", 5e-6),
        result(PRESETS["scaling"][0], "umfa", "int8", 1e-3),
        replace(result(PRESETS["neighbour"][0], "umfa", "fp32", 1e-3), neighbour_rounds=[1.5e-3]),
    ]
    memory = PRESETS["memory"][0]
    return record(
        "avx2",
        *results,
        date="2026-01-02 00:00 UTC",
        versions={"umfa": "1", "torch": "2"},
        memory=[Memory(memory, "umfa", "int8", True, 18 << 20, 16 << 20, 1 << 20)],
        demo=[decoded("fp32", 12.7), decoded("int8_kv", 9.0, 0.05)],
    )


def test_the_summary_is_read_in_a_minute(full: Record) -> None:
    grid = summary.grid("machine", full)
    assert table(grid) == {
        "speed over the fastest FP32 of a peer, FP32": "1.5 to 2x",
        "decoding against 32768 keys, time over the fastest peer in any format": "INT8 K/V 0.25",
        "decoding, time over our FP32, INT8 in all formats of the guide": (
            "0.3 to 6.2; int8_row_rotate 0.3"
        ),
        "prefill with K/V as recommended, speed over our FP32": "int4_recommended 1.2x",
        "prefill from floats, quantizing included, over our FP32": "int4_recommended 0.5x",
        "quantize, rate over that of a copy": "int8_row_rotate 50 %",
        "append a row to a cache": "int8_row_rotate 4 us",
        "training, speed over PyTorch in the same format": "FP32 1.5x",
        "a small call from Python": "5 us",
        "slowdown while a neighbour keeps a core busy": "1.5x",
        "the best rate on 8 heads of D 64": "INT8 134 GFLOP/s",
        "peak memory beyond the output with 16384 keys and a mask, MiB": "umfa 2",
        "umfa demo, decoding, tokens/s": "FP32 12.7, INT8 K/V 9",
        "umfa demo, attention alone, ms a token": "FP32 2, INT8 K/V 50",
        "targets that are met (AVX2)": "10 of 13",
    }
    assert summary.where(full) == "some, 2 cores, avx2; 2 threads; 2026-01-02; beside torch"


def test_switches_are_told_beside_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    assert "switches" not in machine("avx2")
    monkeypatch.setenv("MFA_CPU_ISA", "avx2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    found = Record([], machine=machine("avx2"))
    told = "avx2 (MFA_CPU_ISA=avx2 ATEN_CPU_CAPABILITY=avx2)"
    assert dict(report.circumstances(found))["instruction set of umfa"] == told
    assert told in summary.where(found)


def test_a_record_without_figures_has_an_empty_summary() -> None:
    assert summary.grid("machine", record("avx2")).lines == []


def test_every_line_needs_its_figures_only(full: Record) -> None:
    """Without its results, a line is left out, and no other is changed."""
    whole = table(summary.grid("machine", full))
    for preset in ("seeds", "decode", "training", cases.FORMATS_PRESET, "overhead", "neighbour"):
        rest = [r for r in full.results if r.case.preset != preset]
        lines = table(summary.grid("machine", replace(full, results=rest)))
        assert len(lines) < len(whole)
        kept = lines.keys() - {"targets that are met (AVX2)"}
        assert {what: lines[what] for what in kept}.items() <= whole.items()


def test_the_page_opens_with_the_summary(full: Record, tmp_path: Path) -> None:
    full.write(tmp_path / "machine.jsonl")
    page = numbers.render(numbers.read(tmp_path))
    first = [line for line in page.splitlines() if line.startswith("#")]
    assert first[:5] == [
        "# Numbers",
        "## In a minute",
        "### machine",
        "## How it is measured",
        "## machine",
    ]
    assert "### umfa demo: B1" in page
    assert Record.read(tmp_path / "machine.jsonl") == full


def test_the_bench_does_not_import_what_only_the_demo_needs() -> None:
    """`umfa bench` runs where the extra of the demo is not installed."""
    code = (
        "import sys, umfa.cli, umfa.bench.demo; "
        "sys.exit(bool({'gguf', 'tokenizers', 'matplotlib', 'jinja2'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
