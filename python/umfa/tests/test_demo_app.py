"""``umfa demo`` as a whole, on a tiny model and a simulated engine."""

from __future__ import annotations

import dataclasses
import io
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_support import SimulatedEngine, write_tiny_model
from rich.console import Console

from umfa import demo
from umfa._files import OutputError
from umfa.demo import _app as app
from umfa.demo import _fetch as fetch
from umfa.demo import _report as report
from umfa.demo._engine import Operand
from umfa.demo._evaluate import Result
from umfa.demo._text import load_text

FIGURES = {
    "perplexity",
    "kv_cache_bytes",
    "prefill_attention_s",
    "decode_tokens_per_s",
    "decode_attention_s_per_token",
    "max_logit_error_vs_fp32",
    "text",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path)
    return path


def run(options: app.Options, engine: Any = None) -> tuple[dict[str, Result], str]:
    output = io.StringIO()
    console = Console(file=output, width=200)
    results = app.run(options, console, nullcontext(engine or SimulatedEngine()))
    return results, output.getvalue()


def options(model: Path, **changes: Any) -> app.Options:
    values: dict[str, Any] = {
        "tokens": 160,
        "quick": False,
        "model": model,
        "json": None,
        "plot": None,
        "device": "auto",
    }
    return app.Options(**{**values, **changes})


def test_run(model: Path, tmp_path: Path) -> None:
    files = {"json": tmp_path / "figures.json", "plot": tmp_path / "plot.png"}
    results, output = run(options(model, **files))
    written = json.loads(files["json"].read_text(encoding="utf-8"))
    assert set(written) == {"model", "tokens", "modes"}
    assert (written["model"], written["tokens"]) == ("tiny", 160)
    assert list(written["modes"]) == ["fp32", "int8_kv", "int4_kv", "int8"]
    for name, figures in written["modes"].items():
        assert set(figures) == FIGURES
        assert figures == vars(results[name])
        assert figures["prefill_attention_s"] > 0
        assert figures["decode_tokens_per_s"] > 0
        # Attention is a part of a step.
        assert 0 < figures["decode_attention_s_per_token"] < 1 / figures["decode_tokens_per_s"]
    errors = [results[name].max_logit_error_vs_fp32 for name in ("int8_kv", "int8", "int4_kv")]
    assert results["fp32"].max_logit_error_vs_fp32 == 0
    assert 0 < errors[0] < errors[1] < errors[2]
    assert results["int4_kv"].kv_cache_bytes < results["int8_kv"].kv_cache_bytes
    assert files["plot"].read_bytes().startswith(b"\x89PNG")
    for path in files.values():
        assert str(path) in output
    assert "agrees with FP64 attention over 160 tokens" in output
    assert "INT4 K/V" in output


def test_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Result(12.345, 123_400_000, 12.34, 123.4, 0.12345, 12.34, "")
    results = dict.fromkeys(("fp32", "int8_kv", "int4_kv", "int8"), figures)
    report.print_table(Console(width=80), "model, 2048 tokens", results)
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "perplexity" in line)
    assert heading.split()[-3:] == ["tokens/s", "ms/token", "error"]
    row = next(line for line in lines if line.lstrip().startswith("FP32"))
    assert row.split()[-3:] == ["123.4", "123.45", "12.34"]
    assert max(map(len, lines)) <= 80


def test_results_do_not_depend_on_the_split(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(options(model))
    plan = dataclasses.replace(app.make_plan(options(model)), decoded=100)
    monkeypatch.setattr(app, "make_plan", lambda _: plan)
    split, _ = run(options(model))
    assert whole["fp32"].perplexity == pytest.approx(split["fp32"].perplexity, rel=1e-5)
    assert whole["fp32"].text == split["fp32"].text


def test_wrong_attention_stops_the_demo(model: Path) -> None:
    class Wrong(SimulatedEngine):
        def attention(self, q: Operand, k: Operand, v: Operand, *, causal: bool) -> Any:
            out, logsumexp = super().attention(q, k, v, causal=causal)
            return np.asarray(out * 1.001, np.float32), logsumexp

    with pytest.raises(app.DemoError, match="FP32 attention"):
        run(options(model), Wrong())


def test_quick_is_shorter(model: Path) -> None:
    plan = app.make_plan(options(model, quick=True, tokens=2048))
    assert plan.tokens == 512
    assert app.make_plan(options(model, quick=True, tokens=200)).tokens == 200


@pytest.mark.parametrize("tokens", [127, 513, -1])
def test_tokens_out_of_range(model: Path, tokens: int) -> None:
    with pytest.raises(app.DemoError, match=f"tokens: {tokens} found, 128 to 512 expected"):
        run(options(model, tokens=tokens))


@pytest.mark.parametrize("name", ["json", "plot"])
def test_output_folder_is_checked_first(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"):
        run(options(model, **{name: tmp_path / "none" / "file"}))


def test_command_tells_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.command(model=tmp_path / "none.gguf") == 1
    said = capsys.readouterr()
    assert "error: there is no file" in said.err
    assert "Traceback" not in said.err + said.out


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (fetch.FetchError("no [network] here"), 1, "error: no [network] here"),
        (ModuleNotFoundError("x", name="gguf"), 1, "needs 'gguf': pip install 'umfa[demo]'"),
    ],
)
def test_command_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(app, "fetch_model", fail)
    assert demo.command() == status
    assert message in capsys.readouterr().err


def test_text_is_long_enough() -> None:
    text = load_text()
    start = "Alice was beginning to get very tired of sitting by her sister on the bank, and of"
    assert text.startswith(start)
    assert len(text) > 5 * 8192
