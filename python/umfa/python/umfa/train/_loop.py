"""Training of every mode side by side, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from torch import Tensor

from umfa.demo import _model as numpy_model

from ._memory import PeakMemory
from ._model import Llama
from ._modes import attention

#: Steps over which the final loss is averaged: windows of text differ by more than modes do.
SMOOTHING = 10

_WARM_UP = 3


@dataclass
class Curve:
    """What one mode did. Losses are in nats per token."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    held_out_before: float | None = None
    held_out_after: float | None = None

    def final_loss(self, steps: int) -> float:
        """Mean loss of the last :data:`SMOOTHING` of the first ``steps`` steps."""
        return fmean(self.losses[max(0, steps - SMOOTHING) : steps])

    @property
    def seconds_per_step(self) -> float:
        return median(self.seconds)


@dataclass
class Outcome:
    """The curves of all modes, by name."""

    curves: dict[str, Curve]
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Steps that every mode has done."""
        return min(len(curve.losses) for curve in self.curves.values())

    def difference(self, name: str, base: str = "fp32") -> float:
        """Final loss of a mode relative to another's: 0.01 is 1 % above."""
        mine, theirs = (self.curves[n].final_loss(self.steps) for n in (name, base))
        return mine / theirs - 1


@dataclass(frozen=True)
class Data:
    """Windows ``[count, length + 1]`` of tokens: one a step, and those never trained on."""

    train: Tensor
    held_out: Tensor


class Trainer:
    """One mode's model and optimizer (AdamW, constant rate after a linear warm-up)."""

    def __init__(
        self, source: numpy_model.Llama, mode: str, rank: int, learning_rate: float, seed: int
    ) -> None:
        self.model = Llama(source, attention(mode), rank, seed)
        parameters = list(self.model.parameters())
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP)
        )

    def step(self, windows: Tensor) -> float:
        """Loss before the update, which follows."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.model.loss(windows)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.item())

    @torch.no_grad()
    def evaluate(self, windows: Tensor, tick: Callable[[], None]) -> float:
        losses = []
        for window in windows:
            losses.append(self.model.loss(window[None]).item())
            tick()
        return fmean(losses)


def train(
    trainers: dict[str, Trainer],
    data: Data,
    on_work: Callable[[str, int], None] = lambda *_: None,
) -> Outcome:
    """Every mode's step on a window before any mode's on the next.

    ``on_work(mode, windows)`` is called as windows are done, ``work_units`` of them in all.
    KeyboardInterrupt ends it early, and drops the step that it fell in.
    """
    outcome = Outcome({name: Curve() for name in trainers})
    curves = outcome.curves
    try:
        for name, trainer in trainers.items():
            curves[name].held_out_before = _evaluate(trainer, data, name, on_work)
        for window in data.train:
            for name, trainer in trainers.items():
                _step(trainer, window[None], curves[name])
                on_work(name, _STEP_UNITS)
        for name, trainer in trainers.items():
            curves[name].held_out_after = _evaluate(trainer, data, name, on_work)
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


#: A step (forward, backward) takes about twice the time of evaluating a window, the weights
#: being frozen.
_STEP_UNITS = 2


def work_units(modes: Sequence[str], data: Data) -> int:
    """How much ``on_work`` of :func:`train` is told of in all."""
    return len(modes) * (_STEP_UNITS * len(data.train) + 2 * len(data.held_out))


def _step(trainer: Trainer, windows: Tensor, curve: Curve) -> None:
    with PeakMemory() as peak:
        started = time.perf_counter()
        loss = trainer.step(windows)
        seconds = time.perf_counter() - started
    # Together, so that an interrupt leaves lists of the same length.
    curve.losses.append(loss)
    curve.seconds.append(seconds)
    curve.peak_bytes.append(peak.bytes)


def _evaluate(
    trainer: Trainer, data: Data, name: str, on_work: Callable[[str, int], None]
) -> float:
    return float(trainer.evaluate(data.held_out, lambda: on_work(name, 1)))
