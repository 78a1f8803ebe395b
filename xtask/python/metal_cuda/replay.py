"""Runs recorded calls on a device, and holds the results against what is expected.

Devices are gpu.Device and host.HostDevice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import large, rounding, storage, vectors
from .errorrule import Bound, norms
from .records import Record, Recording

Array = Any

# The ratio of an error where none is allowed; JSON has no infinity.
IMPOSSIBLE = 1e6


def run(device: Any, recording: Recording, record: Record, memory: list[Any]) -> list[Any]:
    """Launches a call on its buffers and on those that the driver made; returns them all."""
    if record.refusal is not None:
        raise RuntimeError(f"{record.name}: the driver refused it: {record.refusal}")
    made = [
        device.buffer(size, contents)
        for size, contents in zip(record.sizes[len(memory) :], record.contents[len(memory) :])
    ]
    buffers = [*memory, *made]
    for launch in record.launches:
        if 0 not in launch.grid:
            device.launch(recording.text(launch.text), launch, buffers)
    return buffers


@dataclass
class Outcome:
    """How a call ended."""

    name: str
    problems: list[str]
    ratio: float = 0.0
    """The largest error over the allowed one."""
    results: dict[str, dict[str, float]] | None = None


# MARK: The conformance vectors


def vector(device: Any, recording: Recording, record: Record, case: Any) -> Outcome:
    """A call of a vector: values, exact bytes, and that nothing else was written."""
    before = case.memory()
    count = max(before) + 1
    memory = [
        device.buffer(
            record.sizes[n], before[n].tobytes() if n in before and before[n].size else None
        )
        for n in range(count)
    ]
    after = run(device, recording, record, memory)
    found = {n: np.asarray(device.bytes_of(after[n]))[: before[n].size] for n in before}
    backward = record.operation == "backward"
    outcome = Outcome(record.name, [])
    own = {n: np.zeros(before[n].size, bool) for n in before}
    for role, tensor in case.tensors.items():
        if tensor.buffer not in case.rooms:
            continue
        _mark(own[tensor.buffer], tensor)
        if role in case.values and vectors.is_backward(role) == backward:
            _values(outcome, role, tensor.view(found[tensor.buffer]), case)
    for n in before:
        if n in case.same:
            wrong = np.flatnonzero(found[n] != case.expected(n))
            if wrong.size:
                outcome.problems.append(
                    f"{wrong.size} bytes of buffer {n} differ, the first at {wrong[0]}"
                )
        else:
            touched = np.flatnonzero((found[n] != before[n]) & ~own[n])
            if touched.size:
                outcome.problems.append(
                    f"byte {touched[0]} of buffer {n} belongs to no result and was changed"
                )
    return outcome


def _mark(own: Array, tensor: Any) -> None:
    """Marks the bytes of a tensor's elements."""
    shape, strides, bits = list(tensor.shape), list(tensor.strides), storage.BITS[tensor.precision]
    if bits == 4:
        shape[3], strides[:3] = shape[3] // 2, [stride // 2 for stride in strides[:3]]
    width = max(bits // 8, 1)
    index = np.full(shape, tensor.offset, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides)):
        along = [1, 1, 1, 1]
        along[axis] = size
        index += (np.arange(size) * stride * width).reshape(along)
    for byte in range(width):
        own[(index + byte).reshape(-1)] = True


def _values(outcome: Outcome, role: str, found: Array, case: Any) -> None:
    expected, bound = case.expected_values(role).astype(np.float64), case.values[role]
    actual = found.astype(np.float64)
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        wrong = np.where(
            finite,
            ~np.isfinite(actual),
            ~((actual == expected) | (np.isnan(actual) & np.isnan(expected))),
        )
        error = np.where(finite & ~wrong, np.abs(actual - expected), 0.0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        outcome.problems.append(f"{role}{list(at)} is {actual[at]}, expected {expected[at]}")
        return
    rms = np.sqrt((error**2).sum(axis=(2, 3)) / np.maximum(finite.sum(axis=(2, 3)), 1))
    largest, typical = float(error.max(initial=0.0)), float(rms.max(initial=0.0))
    for what, value, allowed in (("max", largest, bound.max), ("rms", typical, bound.rms)):
        if value > 0:
            outcome.ratio = max(outcome.ratio, value / allowed if allowed > 0 else IMPOSSIBLE)
        if value > allowed:
            outcome.problems.append(f"{role}: {what} error {value:.3g}, allowed {allowed:.3g}")


# MARK: Large calls


def large_call(
    device: Any,
    recording: Recording,
    records: list[Record],
    problem: large.Problem,
    bounds: dict[str, Bound],
) -> Outcome:
    """Forward, and backward if it is asked for, with the error of each result."""
    xp, call = device.xp, problem.call
    expected = problem.expected(xp)
    outcome = Outcome(call.name, [], results={})
    for record in records:
        buffers = large.numbered(call, record.operation)
        memory = []
        for number, (name, size) in enumerate(zip(buffers.names, buffers.sizes)):
            if number in buffers.contents:
                memory.append(device.buffer(size, buffers.contents[number]))
            elif is_output(call, record.operation, name[0]):
                memory.append(device.buffer(size, None))
            else:
                memory.append(problem.memory[name])
        after = run(device, recording, record, memory)
        for number, (role, _) in enumerate(buffers.names):
            if not is_output(call, record.operation, role):
                continue
            kind, shape = call.tensors(record.operation)[role]
            if role == "grad_sinks":
                shape = (call.heads,)
            actual = storage.read(xp, after[number], kind.precision, shape)
            _compare(outcome, xp, role, actual, expected[role], bounds[role])
    return outcome


def is_output(call: large.Call, operation: str, role: str) -> bool:
    return role in call.tensors(operation) and large.is_result(role)


def _compare(
    outcome: Outcome, xp: Any, role: str, actual: Array, expected: Array, bound: Bound
) -> None:
    finite = xp.isfinite(expected)
    wrong = xp.where(
        finite,
        ~xp.isfinite(actual),
        ~((actual == expected) | (xp.isnan(actual) & xp.isnan(expected))),
    )
    bad = int(wrong.sum())
    error = norms(xp, xp.where(finite & ~wrong, actual - expected, 0.0), expected)
    size = float(xp.abs(xp.where(finite, expected, 0.0)).max())
    outcome.results = {
        **(outcome.results or {}),
        role: {
            "size": size,
            "max": error.max,
            "rms": error.rms,
            "naive_max": bound.naive.max,
            "naive_rms": bound.naive.rms,
            "noise_max": bound.noise.max,
            "noise_rms": bound.noise.rms,
        },
    }
    if bad:
        outcome.problems.append(
            f"{role}: {bad} elements are NaN or infinite where they should not be, or the reverse"
        )
    for what, value, allowed in (
        ("max", error.max, bound.max),
        ("rms", error.rms, bound.rms),
    ):
        if value > 0:
            outcome.ratio = max(outcome.ratio, value / allowed if allowed > 0 else IMPOSSIBLE)
        if value > allowed:
            outcome.problems.append(f"{role}: {what} error {value:.3g}, allowed {allowed:.3g}")


# MARK: Rounding


def rounding_call(
    device: Any, recording: Recording, record: Record, call: rounding.Call, data: rounding.Rounded
) -> Outcome:
    """Quantizing and dequantizing must give the bytes of the contract."""
    xp = device.xp
    outcome = Outcome(record.name, [], results={})
    names = list(call.parts())
    forth = record.operation == "quantize"
    source = data.source if forth else device.buffer(record.sizes[0], None)
    parts = [
        device.buffer(record.sizes[n + 1], None) if forth else data.parts[name]
        for n, name in enumerate(names)
    ]
    after = run(device, recording, record, [source, *parts])
    if forth:
        for number, name in enumerate(names, 1):
            wrong = int((after[number] != data.parts[name]).sum())
            outcome.results = {
                **(outcome.results or {}),
                name: {"size": record.sizes[number], "different": wrong},
            }
            if wrong:
                outcome.problems.append(f"{name}: {wrong} of {record.sizes[number]} bytes differ")
        return outcome
    found = storage.read(xp, after[0], call.source, call.shape)
    wrong = int((found != data.back).sum())
    outcome.results = {"real": {"size": storage.count(call.shape), "different": wrong}}
    if wrong:
        outcome.problems.append(f"{wrong} of {storage.count(call.shape)} real numbers differ")
    return outcome
