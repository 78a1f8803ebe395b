"""The benchmark: what it measures, how it talks to other processes, what it makes of figures."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
from typer.testing import CliRunner

from umfa.bench import ceilings, guide, numbers, process, record, reference, report, targets
from umfa.bench.accuracy import Measured
from umfa.bench.cases import ALL, PRESETS, TRAINING, Case, case, preset_cases
from umfa.bench.memory import Memory
from umfa.bench.quiet import Quiet
from umfa.bench.record import Record
from umfa.bench.runner import InterleavedRun, Result, Settings, plan
from umfa.cli import app

SMALL = case("shape", 1, 2, 24, 16)
GROUPED = case("shape", 2, 4, 9, 8, kv_heads=2, keys=13, causal=True)


def exact_output(one: Case, given: reference.Operands) -> Any:
    """The conformance reference, all heads at once."""
    return plain.attention(given.q, given.k, given.v, causal=one.causal)[0]


# What is measured.


def test_presets_are_found_by_name() -> None:
    assert list(preset_cases(["llm"])) == [case("llm", 1, 32, 2048, 128, kv_heads=8, causal=True)]
    assert list(preset_cases([ALL])) == [one for cases in PRESETS.values() for one in cases]
    with pytest.raises(ValueError, match='no preset "ll"; there are seeds, llm'):
        list(preset_cases(["ll"]))


def test_work_is_counted_with_mask_and_gradients() -> None:
    square = case("shape", 2, 3, 16, 8)
    assert square.flops == 4 * 2 * 3 * 16 * 16 * 8
    assert replace(square, causal=True).flops == square.flops / 2
    assert replace(square, kind=TRAINING).flops == 14 * 2 * 3 * 16 * 16 * 8
    assert case("shape", 1, 8, 1, 64, kv_heads=2, keys=100).kv_elements == 2 * 100 * 128
    assert GROUPED.label == "B2 H4 Hkv2 N9 Nk13 D8 causal"


@pytest.mark.parametrize("one", [SMALL, GROUPED])
def test_reference_is_the_formula(one: Case) -> None:
    given = reference.operands(one, 3)
    exact = reference.forward(one, given)
    wanted = exact_output(one, given)
    assert exact.error(wanted) < 1e-14
    wanted[:, :, -1] *= 1.01
    assert exact.error(wanted) > 1e-4


def test_reference_gradients_are_those_of_finite_differences() -> None:
    one = replace(GROUPED, kind=TRAINING)
    given = reference.operands(one, 4)
    exact = reference.gradients(one, given)
    assert given.grad_out is not None
    head = one.kv_heads - 1
    for name, wanted in (("q", exact.dq[0]), ("k", exact.dk), ("v", exact.dv)):
        at = (-1, head * one.group if name == "q" else head, 5, 3)
        moved = []
        for step in (1e-4, -1e-4):
            array = getattr(given, name).astype(np.float64)
            array[at] += step
            moved.append(
                np.sum(exact_output(one, replace(given, **{name: array})) * given.grad_out)
            )
        assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(wanted[5, 3], rel=1e-6, abs=1e-8)


# Other processes.


def test_peers_are_parsed(tmp_path: Path) -> None:
    assert process.parse_peer("torch") == ("torch", None)
    assert process.parse_peer(f"ggml={tmp_path}") == ("ggml", tmp_path)
    with pytest.raises(ValueError, match='no peer "tensorflow"; there are ggml, jax'):
        process.parse_peer("tensorflow")
    with pytest.raises(ValueError, match="does not exist"):
        process.parse_peer(f"torch={tmp_path / 'python'}")


def test_environment_of_workers_is_the_same_for_all() -> None:
    given = {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "64", "HOME": "/home"}
    found = process.environment(given, 3)
    assert "OPENBLAS_CORETYPE" not in found
    assert (found["OMP_NUM_THREADS"], found["HOME"]) == ("3", "/home")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_what_a_worker_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """A child that holds the pipe: without its end, `close` would wait for it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nsleep 60 &\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    worker = process.Worker("numpy", 1, python)
    start = time.monotonic()
    worker.close()
    assert time.monotonic() - start < 30


@pytest.fixture(scope="module")
def numpy_worker() -> Iterator[process.Worker]:
    with process.Worker("numpy", 1, Path(sys.executable)) as worker:
        yield worker


def test_worker_measures_a_case(numpy_worker: process.Worker) -> None:
    assert numpy_worker.version == np.__version__
    request = {"case": GROUPED.to_json(), "format": "fp32", "seed": 1}
    assert numpy_worker.ask({"do": "formats", **request}, 20) == {"formats": ["fp32"]}
    prepared = numpy_worker.ask({"do": "prepare", **request}, 20)
    assert 0 < prepared["error"] < 1e-6
    run = {"do": "run", "format": "fp32", "seconds": 0.0, "calls": 4}
    timed = numpy_worker.ask(run, 20)
    assert timed["calls"] == 4
    assert 0 < timed["minimum"] <= timed["median"]
    assert numpy_worker.ask({"do": "drop"}, 20) == {}
    with pytest.raises(process.PeerFailed, match="KeyError"):
        numpy_worker.ask(run, 20)


def test_worker_refuses_what_its_library_cannot_do(numpy_worker: process.Worker) -> None:
    large = case("shape", 1, 1, 1 << 14, 16)
    request = {"do": "prepare", "case": large.to_json(), "format": "fp32", "seed": 0}
    assert numpy_worker.ask(request, 60)["refused"] == "its score matrix would be too large"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="through /proc")
def test_worker_measures_memory(numpy_worker: process.Worker) -> None:
    one = case("memory", 1, 1, 1024, 16)
    request = {"do": "memory", "case": one.to_json(), "format": "fp32", "seed": 0, "masked": True}
    found = numpy_worker.ask(request, 60)
    # The plain formula stores its scores.
    assert found["growth"] > 4 * 1024 * 1024
    assert found["output"] == 4 * 1024 * 16


def test_absent_library_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.so").write_bytes(b"")
    with pytest.raises(process.PeerFailed, match=r"ggml: .*not a library of ggml"):
        process.Worker("ggml", 1, tmp_path / "empty.so")


def test_worker_that_ends_is_noticed() -> None:
    with process.Worker("numpy", 1) as worker:
        worker.close()
        assert not worker.alive
        with pytest.raises(process.PeerFailed):
            worker.ask({"do": "drop"}, 5)


def test_contest_measures_ours_and_a_peer() -> None:
    settings = Settings(threads=1, seconds=0.01, rounds=2, modes=("fp32", "int8"))
    with InterleavedRun([("numpy", None)], settings) as contest:
        results = contest.measure(SMALL, Quiet(0), lambda _: None)
    found = {(r.engine, r.storage): r for r in results}
    ours = {("umfa", name) for name in ("fp32", "int8", "int8 from floats")}
    assert set(found) == {*ours, ("numpy", "fp32")}
    for result in results:
        assert result.refused is None
        assert len(result.rounds) == 2
        assert result.median is not None
        assert result.error is not None
    assert (found["umfa", "fp32"].error or 1) < 1e-6 < (found["umfa", "int8"].error or 0) < 0.1


def test_long_cases_get_fewer_rounds_and_no_repetitions() -> None:
    settings = Settings(seconds=1.0, rounds=5, case_seconds=20.0)
    assert plan([], settings, False) == (0, [])
    assert plan([1e-5, 1e-3], settings, False) == (5, [0.2, 0.2])
    rounds, slots = plan([3.0, 4.0, 1e-5], settings, False)
    assert (rounds, slots) == (3, [0.0, 0.0, 0.2])


def test_patience_is_bounded() -> None:
    quiet = Quiet(0)
    quiet.wait()
    assert (quiet.rounds, quiet.waited) == (1, 0.0)


def test_a_wait_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umfa.bench.quiet._others", lambda: 1.0)
    said: list[float] = []
    quiet = Quiet(0.05, said.append)
    for _ in range(3):
        quiet.wait()
    assert said == [0.05]
    assert quiet.busy_rounds == 3


# Figures.


def result(one: Case, engine: str, storage: str, median: float, **rest: Any) -> Result:
    return Result(one, engine, storage, 0.01, median, 0.9 * median, 7, [median], **rest)


CEILINGS = {
    "isa": "avx512vnni",
    "ceilings": [
        {"name": name, "unit": unit, "by_threads": {"1": rate, "2": 2 * rate}}
        for name, unit, rate in (
            ("vfmadd231ps zmm", "GFLOP/s", 150.0),
            ("vpdpbusd zmm", "GOP/s", 600.0),
            ("vpdpwssd zmm", "GOP/s", 300.0),
            ("read from L2", "GB/s", 110.0),
            ("read from memory", "GB/s", 10.0),
            ("softmax step to f32 (exp, in place)", "G/s", 5.0),
            ("softmax step to i16", "G/s", 2.5),
            ("softmax step to u8", "G/s", 2.5),
        )
    ],
}


@pytest.fixture
def made() -> Record:
    seed = PRESETS["seeds"][0]
    decode = PRESETS["decode"][1]
    return Record(
        results=[
            result(seed, "torch", "bf16", 1e-3),
            result(seed, "torch", "fp32", 4e-3),
            result(seed, "onnxruntime", "fp32", 3e-3),
            result(seed, "umfa", "fp32", 2e-3),
            result(seed, "umfa", "int8", 2e-3),
            result(decode, "umfa", "int8_kv", 4e-3),
            result(decode, "torch", "fp16 folded", 8e-3),
            Result(decode, "openvino", "fp32", refused="no\nmemory"),
            result(PRESETS["neighbour"][0], "umfa", "fp32", 1e-3, neighbour_rounds=[1.5e-3]),
        ],
        memory=[Memory(PRESETS["memory"][0], "umfa", "fp32", True, 30 << 20, 16 << 20, 1 << 20)],
        accuracy=[Measured("B1", "qkv", "INT8 row", "offset", 0.1, 0.01, 0.001)],
        date="2026-01-01 00:00 UTC",
        command="umfa bench",
        machine={"processor": "some", "cores": 2},
        versions={"umfa": "1"},
        absent={"jax": "jax: not installed"},
        settings={"threads": 2},
        noise={"rounds": 7, "busy_rounds": 1, "waited": 2.0},
        ceilings=CEILINGS,
    )


def test_ratios_are_against_the_fastest_peer(made: Record) -> None:
    group = record.by_case(made.results)[PRESETS["seeds"][0]]
    found = record.rows(group, made.limits())
    names = [(row.result.engine, row.result.storage) for row in found]
    assert names[:3] == [("umfa", "fp32"), ("umfa", "int8"), ("torch", "bf16")]
    assert (found[0].ratio_fp32, found[0].ratio_any) == (1.5, 0.5)
    assert found[2].ratio_fp32 is None
    assert found[0].rate == pytest.approx(4 * 512 * 512 * 64 / 2e-3 / 1e9)


def test_ceiling_counts_products_softmax_and_bytes(made: Record) -> None:
    limits = made.limits()
    assert limits is not None
    seed, decode = PRESETS["seeds"][0], PRESETS["decode"][1]
    each = 256 / 300e9 + 1 / 10e9
    assert limits.seconds(seed, "fp32") == pytest.approx(seed.scores * each)
    exact = 128 / 1200e9 + 128 / 600e9 + 1 / 5e9
    assert limits.seconds(seed, "int8") == pytest.approx(seed.scores * exact)
    assert limits.seconds(decode, "int8_kv") == pytest.approx(8 * 32768 * 256 / 20e9)


def test_training_is_held_against_the_peaks() -> None:
    case = PRESETS["training"][0]
    seven_products = 14 * 8 * 1024 * 1024 * 64
    results = [result(case, "umfa", "bf16", seven_products / 600e9)]
    grid = report.case_grid(case, results, ceilings.parse(CEILINGS, 2))
    at = grid.headings.index("of FMA")
    assert "of BF16" not in grid.headings
    assert (grid.lines[0][at - 2], grid.lines[0][at]) == ("600", "200 %")
    entry = {"name": "tdpbf16ps", "unit": "GFLOP/s", "by_threads": {"1": 1500.0, "2": 3000.0}}
    limits = ceilings.parse({**CEILINGS, "ceilings": [*CEILINGS["ceilings"], entry]}, 2)
    grid = report.case_grid(case, results, limits)
    assert grid.headings[at : at + 2] == ["of FMA", "of BF16"]
    assert grid.lines[0][at : at + 2] == ["200 %", "20 %"]
    assert len(grid.lines[0]) == len(grid.headings)
    forward = report.case_grid(PRESETS["seeds"][0], [], limits)
    assert "of FMA" not in forward.headings


def test_incomplete_ceilings_are_refused() -> None:
    with pytest.raises(ValueError, match="the ceilings of neon lack 'GFLOP/s'"):
        ceilings.parse({"isa": "neon", "ceilings": []}, 2)


def test_targets_are_judged(made: Record) -> None:
    found = {outcome.what: outcome for outcome in targets.outcomes(made)}
    fp32 = found["seeds B1 H1 N512 D64: fp32 over FP32 of onnxruntime"]
    assert (fp32.found, fp32.met) == (1.5, True)
    assert not found["seeds B1 H1 N512 D64: int8 over FP32 of onnxruntime"].met
    decode = "decode B1 H32 Hkv8 N1 Nk32768 D128: time of int8_kv over torch fp16 folded"
    assert (found[decode].found, found[decode].met) == (0.5, False)
    assert found["B1 H1 N512 D64 fp32: slowdown with a busy neighbour"].met
    assert not found["memory B1 H4 N16384 D64 fp32 masked: growth - output"].met


def test_record_survives_its_file(made: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    made.write(path)
    assert Record.read(path) == made
    head, *figures = map(json.loads, path.read_text().splitlines())
    assert len(figures) == len(made.results) + len(made.memory) + len(made.accuracy)
    assert {(line["date"], line["commit"]) for line in figures} == {(made.date, made.commit)}
    path.write_text(json.dumps({**head, "schema": 0}))
    with pytest.raises(ValueError, match="schema 0, expected 2"):
        Record.read(path)


def test_page_has_every_table(made: Record, tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    made.write(tmp_path / "numbers" / "machine.jsonl")
    outcome = CliRunner().invoke(app, ["bench", "--report", str(tmp_path / "numbers.md")])
    assert outcome.exit_code == 0, outcome.output
    page = (tmp_path / "numbers.md").read_text()
    for title in ("ceilings", "targets", "peak memory", "seeds: B1", "decode: B1", "error of"):
        assert f"### {title}" in page
    assert "| **umfa fp32** | **2** | **1.8** |" in page
    assert "- jax: jax: not installed" in page
    assert "openvino fp32: no\n" in page


def test_page_without_records_is_refused(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["bench", "--report", str(tmp_path / "numbers.md")])
    assert outcome.exit_code == 2
    assert not (tmp_path / "numbers.md").exists()


def test_committed_page_is_made_of_the_committed_records() -> None:
    page = Path(__file__).parents[3] / "docs" / "numbers.md"
    if not page.exists():
        pytest.skip("not in a checkout with records")
    records = numbers.read(page.with_suffix(""))
    assert page.read_text() == numbers.render(records)
    other = page.with_name("quantization.md").read_text()
    assert other == guide.render(other, records)


def test_figures_are_readable() -> None:
    assert [report.number(x) for x in (None, 0.0, 1.5, 0.01234, 2e-7, 123456.0)] == [
        "",
        "0",
        "1.5",
        "0.0123",
        "2.0e-07",
        "123456",
    ]


# The command line.


def test_bench_writes_its_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = {kind: tmp_path / f"run.{kind}" for kind in ("json", "csv", "png")}
    line = "bench --shape 1,2,16,8 --causal --modes fp32,int4_kv --peer numpy --seconds 0.01"
    outputs = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot"]
    more = ["--rounds", "1", "--patience", "0", *outputs, str(files["png"])]
    outcome = CliRunner().invoke(app, [*line.split(), *more])
    assert outcome.exit_code == 0, outcome.output
    assert "shape: B1 H2 N16 D8 causal" in outcome.output
    found = Record.read(files["json"])
    assert {r.engine for r in found.results} == {"umfa", "numpy"}
    lines = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [line["format"] for line in lines] == ["fp32", "int4_kv", "fp32"]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--preset", "fast"), ("--peer", "nobody"), ("--modes", "fp64"), ("--shape", "1,2")],
)
def test_wrong_options_are_refused(option: str, value: str) -> None:
    outcome = CliRunner().invoke(app, ["bench", option, value])
    assert outcome.exit_code == 2
