"""``umfa train`` on a tiny random model: the PyTorch model, the loop, the report, the errors."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for name in ("torch", "gguf", "matplotlib", "psutil", "threadpoolctl", "tokenizers"):
    pytest.importorskip(name, reason=f"umfa train needs {name}")

import torch  # noqa: E402
from demo_support import TINY, SimulatedEngine, tiny_vocabulary, write_tiny_model  # noqa: E402
from rich.console import Console  # noqa: E402

from umfa import train as package  # noqa: E402
from umfa._files import OutputError  # noqa: E402
from umfa.demo import _fetch as fetch  # noqa: E402
from umfa.demo._evaluate import Session  # noqa: E402
from umfa.demo._gguf import open_gguf, read_config, read_model  # noqa: E402
from umfa.demo._model import Llama as NumpyLlama  # noqa: E402
from umfa.demo._modes import MODES  # noqa: E402
from umfa.train import _app as app  # noqa: E402
from umfa.train import _loop as loop  # noqa: E402
from umfa.train import _modes as modes  # noqa: E402
from umfa.train._lora import Lora  # noqa: E402
from umfa.train._memory import PeakMemory  # noqa: E402
from umfa.train._model import Llama  # noqa: E402

# Threads of two libraries on a busy machine may take longer than a test usually does.
pytestmark = pytest.mark.timeout(300)

ALL = ("fp32", "int8_kv", "int4_kv", "int8", "torch")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def source(gguf: Path) -> NumpyLlama:
    return read_model(open_gguf(gguf))


def options(gguf: Path, **changes: Any) -> app.Options:
    plain = app.Options(3, 32, 4, ("fp32", "int8_kv"), 1e-2, 0, gguf, None, None)
    return dataclasses.replace(plain, **changes)


def run(given: app.Options) -> tuple[loop.Outcome, str]:
    output = io.StringIO()
    return app.run(given, Console(file=output, width=200)), output.getvalue()


def tiny_tokens(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(3).integers(0, len(tiny_vocabulary()[0]), shape))


@pytest.mark.parametrize("mode", ["fp32", "torch"])
def test_model_is_the_demos(source: NumpyLlama, mode: str) -> None:
    tokens = tiny_tokens(2, 40)
    with torch.no_grad():
        found = Llama(source, modes.attention(mode))(tokens).numpy()
    for row, logits in zip(tokens.numpy(), found):
        session = Session(source, SimulatedEngine(), MODES[0], len(row))
        expected = source.logits(session.feed(row))
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("index", range(1, len(MODES)))
def test_quantized_modes_are_the_demos(source: NumpyLlama, index: int) -> None:
    """What a mode adds to FP32's logits is what the demo's operands, quantized alike, add."""
    tokens = tiny_tokens(1, 64)  # whole blocks of rows, as the demo's cache finishes them
    with torch.no_grad():
        plain, found = (
            Llama(source, modes.attention(MODES[i].name))(tokens)[0].numpy() for i in (0, index)
        )
    session = Session(source, SimulatedEngine(), MODES[index], tokens.shape[1])
    expected = source.logits(session.feed(tokens[0].numpy()))
    assert np.linalg.norm(found - plain) > 0
    assert np.linalg.norm(found - expected) <= 0.1 * np.linalg.norm(expected - plain)


def test_adapter_starts_at_nothing_and_is_the_formula() -> None:
    random = torch.Generator().manual_seed(5)
    weight, x = torch.randn(12, 16), torch.randn(2, 3, 16)
    lora = Lora(weight, (8, 4), 2, random)
    torch.testing.assert_close(lora(x), x @ weight.T)
    with torch.no_grad():
        for up in lora.up:
            up.normal_(generator=random)
    first, second = lora.down.chunk(2)
    change = 8 * torch.cat([lora.up[0] @ first, lora.up[1] @ second])
    torch.testing.assert_close(lora(x), x @ (weight + change).T)
    assert {name for name, _ in lora.named_parameters()} == {"down", "up.0", "up.1"}


def test_gradients_are_those_of_torchs_attention(source: NumpyLlama) -> None:
    found = []
    for mode in ("fp32", "torch"):
        model = Llama(source, modes.attention(mode))
        with torch.no_grad():  # adapters at 0 would hide the gradients of their first halves
            for name, parameter in model.named_parameters():
                if ".up." in name:
                    parameter.fill_(0.01)
        model.loss(tiny_tokens(2, 33)).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert len(found[0]) == TINY.layers * (1 + 3 + 1 + 1)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-6)
        assert gradient.abs().max() > 0


def test_losses_go_down_and_modes_agree(source: NumpyLlama) -> None:
    window = tiny_tokens(1, 49)
    data = loop.Data(window.expand(12, -1), tiny_tokens(2, 49))
    trainers = {name: loop.Trainer(source, name, 4, 1e-2, 0) for name in ALL}
    work: list[int] = []
    outcome = loop.train(trainers, data, lambda _, units: work.append(units))
    assert sum(work) == loop.work_units(ALL, data)
    assert outcome.steps == 12
    assert not outcome.interrupted
    for curve in outcome.curves.values():
        assert curve.losses[-1] < 0.8 * curve.losses[0]
        assert None not in (curve.held_out_before, curve.held_out_after)
        assert curve.held_out_before != curve.held_out_after
    exact = outcome.curves["torch"].losses
    # Steps amplify rounding: an error that stays where the loss goes to 0 is no smaller with it.
    np.testing.assert_allclose(outcome.curves["fp32"].losses, exact, rtol=0, atol=1e-5 * exact[0])
    assert outcome.difference("fp32") == 0
    for name, tolerance in (("int8_kv", 0.01), ("int8", 0.01), ("int4_kv", 0.05)):
        first = outcome.curves[name].losses[0]
        assert 0 < abs(first / exact[0] - 1) <= tolerance
    for name, tolerance in (("int8_kv", 0.01), ("int4_kv", 0.05)):
        assert 0 < abs(outcome.difference(name)) <= tolerance


def test_same_seed_gives_the_same_curve(gguf: Path) -> None:
    first, again, other = (
        run(options(gguf, seed=seed))[0].curves["int8_kv"].losses for seed in (1, 1, 2)
    )
    assert first == again != other


def test_final_loss_is_the_mean_of_the_last_steps() -> None:
    curve = loop.Curve(losses=[float(i) for i in range(20)])
    assert curve.final_loss(20) == 14.5
    assert curve.final_loss(3) == 1.0


def test_windows(gguf: Path) -> None:
    config = read_config(open_gguf(gguf))
    tokens = list(range(33 * 10 + 5))
    data = app.windows(options(gguf, steps=15), config, tokens)
    assert data.train.shape == (15, 33)
    assert data.held_out.shape == (app.HELD_OUT, 33)
    epoch = {tuple(window.tolist()) for window in data.train[:6]}
    assert len(epoch) == 6
    assert not epoch & {tuple(window.tolist()) for window in data.held_out}
    assert {tuple(window.tolist()) for window in data.train} == epoch
    assert (data.train[:, 1:] == data.train[:, :-1] + 1).all()


def test_report(gguf: Path, tmp_path: Path) -> None:
    files = {"json": tmp_path / "figures.json", "plot": tmp_path / "plot.png"}
    outcome, text = run(options(gguf, **files))
    written = json.loads(files["json"].read_text(encoding="utf-8"))
    assert written["steps_done"] == written["steps"] == 3
    assert written["interrupted"] is False
    assert list(written["modes"]) == ["fp32", "int8_kv"]
    for name, curve in outcome.curves.items():
        found = written["modes"][name]
        assert found["final_loss"] == curve.final_loss(3)
        assert {key: found[key] for key in dataclasses.asdict(curve)} == dataclasses.asdict(curve)
        assert min(curve.seconds) > 0
    assert files["plot"].read_bytes().startswith(b"\x89PNG")
    for path in files.values():
        assert str(path) in text
    verdict = text.splitlines()[-2]
    assert verdict.startswith("INT8 K/V: final loss")
    assert f"{outcome.difference('int8_kv'):+.3%}" in verdict
    assert verdict.endswith("within 1%")
    assert "NOT" not in verdict


def test_verdict_can_be_no(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.Outcome, "difference", lambda *_: -0.011)
    assert "-1.100% from FP32's after 3 steps, NOT within 1%" in run(options(gguf))[1]


def test_interrupt_keeps_what_was_done(
    gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = loop.Trainer.step
    done: list[Any] = []

    def interrupted(self: loop.Trainer, windows: Any) -> float:
        if len(done) == 5:  # in the third step, of the second mode
            raise KeyboardInterrupt
        done.append(1)
        return step(self, windows)

    monkeypatch.setattr(loop.Trainer, "step", interrupted)
    files = {"json": tmp_path / "figures.json", "plot": tmp_path / "plot.png"}
    two = ["fp32", "int8_kv"]
    status = package.command(model=gguf, steps=9, length=32, modes=two, **files)
    assert status == 130
    written = json.loads(files["json"].read_text(encoding="utf-8"))
    assert written["interrupted"] is True
    assert (written["steps"], written["steps_done"]) == (9, 2)
    assert [len(written["modes"][mode]["losses"]) for mode in two] == [3, 2]
    assert written["modes"]["fp32"]["held_out_after"] is None
    assert files["plot"].read_bytes().startswith(b"\x89PNG")
    assert "Interrupted" in capsys.readouterr().out


def test_interrupt_before_the_first_step(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "step", interrupted)
    outcome, text = run(options(gguf))
    assert outcome.interrupted
    assert outcome.steps == 0
    assert "held out" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": ("fp32", "int2")}, "modes: int2 found, some of fp32, int8_kv, int4_kv, int8"),
        ({"modes": ()}, "modes: none found"),
        ({"modes": ("fp32", "fp32")}, "modes: fp32, fp32 found, each at most once"),
        ({"steps": 0}, "steps: 0 found, at least 1 expected"),
        ({"rank": 0}, "rank: 0 found, at least 1 expected"),
        ({"learning_rate": float("nan")}, "learning rate: nan found"),
        ({"length": 15}, "length: 15 found, 16 to 512 expected"),
        ({"length": 513}, "length: 513 found, 16 to 512 expected"),
        ({"json": Path("none/figures.json")}, "its folder does not exist"),
        ({"model": Path("none.gguf")}, "there is no file 'none.gguf'"),
    ],
)
def test_errors(gguf: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((app.TrainError, OutputError), match=message):
        run(options(gguf, **changes))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (fetch.FetchError("no [network] here"), 1, "error: no [network] here"),
        (ModuleNotFoundError("x", name="gguf"), 1, "needs 'gguf': pip install 'umfa[train]'"),
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

    monkeypatch.setattr(app, "fetch", fail)
    assert package.command() == status
    assert message in capsys.readouterr().err


def test_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from umfa.cli import app; app(['train'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.strip() == "umfa train needs 'torch': pip install 'umfa[train]'"


def test_peak_memory_sees_what_is_freed_again() -> None:
    with PeakMemory() as peak:
        block = np.ones(8 << 20)
        del block
    assert peak.bytes >= 60 << 20
