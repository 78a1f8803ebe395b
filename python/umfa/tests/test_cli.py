"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import umfa
from umfa.cli import app

runner = CliRunner()


def run(*arguments: str, status: int = 0) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result.output


def test_help() -> None:
    text = run("--help")
    for command in ("info", "demo", "train", "explain", "bench"):
        assert command in text
        assert "Usage" in run(command, "-h")


def test_info() -> None:
    text = run("info")
    assert umfa.__version__ in text
    assert umfa.devices()[0].name in text
    found = json.loads(run("info", "--json"))
    assert found["umfa"] == umfa.__version__
    assert found["threads"] == umfa.get_num_threads()
    assert found["devices"][0]["driver"] == umfa.devices()[0].driver


def test_explain() -> None:
    text = run(
        "explain", "--shape", "1x8x128x64", "--kv-heads", "2", "--keys", "300",
        "--value-columns", "32", "--k", "int8", "--v", "int4", "--granularity", "row",
        "--causal", "--bottom-right", "--window", "100", "--compute", "fast",
    )  # fmt: skip
    assert "INT8/row [1, 2, 300, 64]" in text
    assert "INT4/row [1, 2, 300, 32]" in text
    for precision in ("int8", "int4"):
        run("explain", "--shape", "1,1,8,8", "--q", precision)
    for dtype in ("float16", "bfloat16"):
        run("explain", "--shape", "1,1,8,8", "--dtype", dtype)
    assert "backward" in run("explain", "--shape", "1,1,8,8", "--backward")


def test_bench_accuracy(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    text = run("bench", "--accuracy", "--shape", "1,2,256,64", "--json", str(file))
    assert "sqrt(mean((quantized - FP32)^2))" in text
    figures = json.loads(file.read_text())
    error = {(r["way"], r["keys"]): r["relative_to_output"] for r in figures["results"]}
    assert 0.005 < error["INT8 tensor", "N(0, 1)"] < 0.03
    assert 0.15 < error["INT4 tensor", "N(0, 1)"] < 0.5
    for label in ("INT8", "INT4"):
        for keys in ("N(0, 1)", "offset", "outliers"):
            assert error[f"{label} row", keys] < error[f"{label} tensor", keys]
        smooth, row = f"{label} row, K smoothed", f"{label} row"
        assert error[smooth, "offset"] < 0.7 * error[row, "offset"]
        assert error[f"{label} row, rotated", "outliers"] < 0.7 * error[row, "outliers"]
        assert error[f"{label} channel", "outliers"] < 0.7 * error[row, "outliers"]
    keys_only = run("bench", "--accuracy", "--shape", "1,2,64,32", "--operands", "k")
    assert "quantized K" in keys_only


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain"], "--shape"),
        (["explain", "--shape", "1,8,64"], "expected batch, heads, rows"),
        (["explain", "--shape", "1,8,64,-1"], "expected batch, heads, rows"),
        (["explain", "--shape", "1,1,8,8", "--dtype", "float64"], "float32, float16"),
        (["bench", "--accuracy", "--operands", "qx"], "expected letters of qkv"),
        (["bench", "--seconds", "-1"], "--seconds"),
        (["demo", "--tokens", "5"], "--tokens"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str) -> None:
    assert sentence in run(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "--shape", "1,1,8,513"], "513"),
        (["explain", "--shape", "1,3,8,8", "--kv-heads", "2"], "multiple"),
        (["explain", "--shape", "1,1,8,8", "--k", "int5"], "int5"),
        (["explain", "--shape", "1,1,8,8", "--device", "tpu"], "tpu"),
        (["bench", "--accuracy", "--shape", "1,1,8,7"], "INT4"),
    ],
)
def test_refusals_are_sentences(arguments: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "umfa.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = pytest.importorskip("umfa.demo", reason="umfa.demo is not installed")
    got: dict[str, Any] = {}

    def command(**options: Any) -> int:
        got.update(options)
        return 3

    monkeypatch.setattr(demo, "command", command)
    run("demo", "--quick", "--tokens", "256", "--json", str(tmp_path / "x.json"), status=3)
    assert got["quick"] is True
    assert got["tokens"] == 256
    assert got["json"] == tmp_path / "x.json"
