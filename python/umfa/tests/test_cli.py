"""The command line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import umfa
from umfa._files import OutputError, check_output, picture_format, writing
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
    assert found["devices"] == [dataclasses.asdict(device) for device in umfa.devices()]


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


def test_explain_the_recipe_of_the_docs() -> None:
    text = run(
        "explain", "--shape", "1,8,128,64", "--k", "int4", "--v", "int4",
        "--granularity", "k=channel,v=row", "--block-rows", "k=32", "--group", "v=32",
        "--asymmetric", "--rotate", "--scale-dtype", "float16",
    )  # fmt: skip
    assert "INT4/channel" in text
    assert "INT4/row" in text


@pytest.mark.parametrize("program", [["-m", "umfa"], ["-m", "umfa.cli"]])
def test_version(program: list[str]) -> None:
    assert run("--version") == f"umfa {umfa.__version__}\n"
    command = [sys.executable, *program, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"umfa {umfa.__version__}\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "--json"],
        ["--version"],
        ["explain", "--shape", "1,1,8,8"],
        ["bench", "--accuracy", "--shape", "1,1,8,8"],
    ],
)
def test_output_that_cannot_be_written(arguments: list[str]) -> None:
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "umfa", *arguments]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr == "error: cannot write the output: No space left on device\n"


def unwritable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    return {
        "no folder": (tmp_path / "none" / "x.png", "its folder does not exist"),
        "a folder": (tmp_path, "it is a folder"),
        "proc": (Path("/proc/x.png"), "cannot write '/proc/x.png'"),
        "format": (tmp_path / "x.nonsense", "format 'nonsense' found, one of"),
    }


@pytest.mark.parametrize("flag", ["--json", "--plot"])
@pytest.mark.parametrize("kind", ["no folder", "a folder", "proc", "format"])
@pytest.mark.parametrize("command", ["demo", "bench"])
def test_files_are_looked_at_first(command: str, kind: str, flag: str, tmp_path: Path) -> None:
    """Before minutes of work; and nothing is left behind."""
    if command == "demo":
        pytest.importorskip("gguf", reason="gguf is not installed")
    path, message = unwritable(tmp_path)[kind]
    if flag == "--json" and kind == "format":
        path, message = tmp_path / "none" / "x", "its folder does not exist"
    if kind == "proc" and not Path("/proc").exists():
        path, message = tmp_path, "it is a folder"
    extra = ["--model", str(tmp_path / "none.gguf")] if command == "demo" else ["--no-peers"]
    result = subprocess.run(
        [sys.executable, "-m", "umfa", command, *extra, flag, str(path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith("error: "), result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_written_files(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("before")
    check_output(path)
    assert path.read_text() == "before"
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert picture_format(tmp_path / "plot") == "png"
    assert picture_format(tmp_path / "plot.SVG") == "svg"
    if FULL.exists():
        check_output(FULL)
        message = "cannot write '/dev/full': No space left"
        with pytest.raises(OutputError, match=message), writing(FULL), FULL.open("w") as file:
            file.write("x")


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
    ("arguments", "message"),
    [
        (["explain"], "--shape"),
        (["explain", "--shape", "1,8,64"], "expected batch, heads, rows"),
        (["explain", "--shape", "1,8,64,-1"], "expected batch, heads, rows"),
        (["explain", "--shape", "1,1,8,8", "--dtype", "float64"], "float32, float16"),
        (["bench", "--accuracy", "--operands", "qx"], "expected letters of qkv"),
        (["explain", "--shape", "1,8,99999999999,64"], "more elements than memory can have"),
        (["explain", "--shape", "99999999999999999999,1,1,1"], "more elements than memory"),
        (["explain", "--shape", "1,1,8,8", "--keys", "99999999999999999999"], "more elements"),
        (["explain", "--shape", "1,1,8,8", "--kv-heads", "-1"], "--kv-heads"),
        (["explain", "--shape", "1,1,8,8", "--keys", "-1"], "--keys"),
        (["explain", "--shape", "1,1,8,8", "--value-columns", "-2"], "--value-columns"),
        (["explain", "--shape", "1,1,8,8", "--k", "int8", "--group", "v:2"], "expected one value"),
        (["bench", "--kv-heads", "0"], "--kv-heads"),
        (["bench", "--seconds", "-1"], "--seconds"),
        (["demo", "--tokens", "5"], "--tokens"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    assert message in run(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--shape", "1,1,8,1025"], "1025"),
        (["explain", "--shape", "1,3,8,8", "--kv-heads", "2"], "multiple"),
        (["explain", "--shape", "1,1,8,8", "--k", "int5"], "int5"),
        (["explain", "--shape", "1,1,8,8", "--device", "tpu"], "tpu"),
        (["bench", "--accuracy", "--shape", "1,1,8,7"], "INT4"),
    ],
)
def test_refusals_are_sentences(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "umfa.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
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
