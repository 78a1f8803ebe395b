"""One process under a sanitizer: `python -m metal_cuda.worker BUNDLE JOBS`.

JOBS is a JSON list of {recording, record, replaced: {text: {replaces, code, entry}}}: calls to be
run, with other machine code
in place of a text's kernel. Buffers are allocated one by one at their exact sizes, so that
accesses beside them are found.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np

from . import bundle, gpu, large, replay, storage, tiny, vectors
from .programs import Programs
from .records import Launch, Recording, load

# Sizes of the calls in the recording "checked".
ROWS, KEYS = bundle.CHECKED["rows"], bundle.CHECKED["keys"]


class Checked(gpu.Device):
    """A device whose texts can be replaced."""

    def __init__(self, programs: Programs, recording: Recording) -> None:
        super().__init__(programs, "safe")
        self.recording = recording
        self.replaced: dict[str, dict[str, str]] = {}
        self.used: set[str] = set()

    def launch(self, text: str, launch: Launch, buffers: list[Any]) -> None:
        other = self.replaced.get(launch.text)
        if other is None or other["replaces"] != launch.entry:
            super().launch(text, launch, buffers)
            return
        program = self.programs.program(text)
        kernel = replace(program.kernels[launch.entry], name=other["entry"])
        module = cp.cuda.function.Module()
        module.load(Path(other["code"]).read_bytes())
        self._modules.append(module)
        self._functions[other["code"], other["entry"]] = module.get_function(other["entry"])
        self.start(self._functions[other["code"], other["entry"]], kernel, launch, buffers)
        self.used.add(launch.text)


def spoil(memory: dict[tuple[str, str], Any], call: large.Call) -> None:
    """Puts NaN and infinities where some rows see them: the careful paths run too."""
    for role, row, column, value in (
        ("key", -9, 3, np.nan),
        ("value", -20, 5, np.nan),
        ("query", -1, 7, np.inf),
        ("grad_output", -1, 2, np.nan),
    ):
        if (role, "data") not in memory:
            continue
        kind, shape = call.tensors("backward")[role]
        if kind.precision in storage.INTEGERS or shape[2] < -row or shape[3] <= column:
            continue
        width = storage.BITS[kind.precision] // 8
        word = storage.stored_bytes(np, np.full(1, value, np.float32), kind.precision)
        at = memory[role, "data"].reshape(shape[0], shape[1], shape[2], shape[3], width)
        at[:, :, row, column] = cp.asarray(word)


def main() -> int:
    folder, jobs, cache = (
        Path(sys.argv[1]),
        json.loads(Path(sys.argv[2]).read_text()),
        Path(sys.argv[3]),
    )
    cp.cuda.set_allocator(None)
    programs = Programs(cache, gpu.architecture())
    cases = vectors.reader(folder / "repository").cases()
    calls = {call.name: call for call in tiny.calls(ROWS, KEYS)}
    recordings = {name: load(folder / name) for name in {job["recording"] for job in jobs}}
    by_name = {
        name: {record.name: record for record in one.records} for name, one in recordings.items()
    }
    devices = {name: Checked(programs, one) for name, one in recordings.items()}
    memories: dict[str, dict[tuple[str, str], Any]] = {}
    for job in jobs:
        recording, device = recordings[job["recording"]], devices[job["recording"]]
        record = by_name[job["recording"]][job["record"]]
        device.replaced = job.get("replaced", {})
        if job["recording"] == "vectors":
            replay.vector(device, recording, record, cases[record.call])
        else:
            call = calls[record.call]
            if call.name not in memories:
                # Made with NumPy: the sanitizer need not watch how.
                made = large.problem(np, call).memory
                memories[call.name] = {name: cp.asarray(x) for name, x in made.items()}
                spoil(memories[call.name], call)
            run(device, recording, record, call, memories[call.name])
        device.finish()
        unused = set(device.replaced) - device.used
        if unused:
            raise RuntimeError(f"{record.name} does not launch what was replaced: {unused}")
    print(f"{len(jobs)} calls done")
    return 0


def run(
    device: Checked,
    recording: Recording,
    record: Any,
    call: large.Call,
    inputs: dict[tuple[str, str], Any],
) -> None:
    buffers = large.numbered(call, record.operation)
    memory = [
        inputs[name]
        if name in inputs and not replay.is_output(call, record.operation, name[0])
        else device.buffer(size, buffers.contents.get(number))
        for number, (name, size) in enumerate(zip(buffers.names, buffers.sizes))
    ]
    replay.run(device, recording, record, memory)


if __name__ == "__main__":
    sys.exit(main())
