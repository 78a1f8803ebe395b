"""Recorded launches on a processor: the conformance vectors, and small forms of the large calls."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from metal_cuda import barriers, large, records, replay, rounding, tiny, vectors
from metal_cuda.bundle import REPOSITORY
from metal_cuda.host import HostDevice
from metal_cuda.run import kind

RECORDED = os.environ.get("METAL_CUDA_RECORDED")
pytestmark = pytest.mark.skipif(
    RECORDED is None, reason="METAL_CUDA_RECORDED names no recorded launches"
)
FOLDER = Path(RECORDED or ".")


def recording(name: str) -> records.Recording:
    return records.load(FOLDER / name)


def names(which: str) -> list[str]:
    return [record.name for record in recording(which).records] if RECORDED else []


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> HostDevice:
    folder = os.environ.get("METAL_CUDA_LIBRARIES")
    return HostDevice(Path(folder) if folder else tmp_path_factory.mktemp("libraries"))


@pytest.mark.parametrize("name", names("vectors"))
def test_vectors(device: HostDevice, name: str) -> None:
    of = recording("vectors")
    record = next(record for record in of.records if record.name == name)
    case = vectors.reader(REPOSITORY).cases()[record.call]
    assert replay.vector(device, of, record, case).problems == []


def test_a_wrong_result_is_a_problem(device: HostDevice) -> None:
    """A kernel that scales scores by another number, or leaves a barrier out, does not pass."""
    of = recording("vectors")
    record = next(
        r
        for r in of.records
        if r.operation == "forward" and kind(of.text(r.launches[0].text)) != "quantization"
    )
    case = vectors.reader(REPOSITORY).cases()[record.call]

    class Wrong(HostDevice):
        def launch(self, text, launch, buffers) -> None:
            changed = text.replace("args.softmax_scale", "(args.softmax_scale * 1.001f)")
            assert changed != text
            super().launch(changed, launch, buffers)

    problems = replay.vector(Wrong(device.folder), of, record, case).problems
    assert problems
    assert "error" in problems[0]


def test_large_calls(device: HostDevice) -> None:
    of = recording("large")
    for call in (c for c in tiny.calls(20, 40) if c.name in {r.call for r in of.records}):
        problem = large.problem(np, call)
        mine = [record for record in of.records if record.call == call.name]
        assert [record.operation for record in mine] == call.operations
        outcome = replay.large_call(device, of, mine, problem, problem.bounds(np))
        assert outcome.problems == []
        assert 0 < outcome.ratio <= 1


def test_rounding(device: HostDevice) -> None:
    of = recording("rounding")
    calls = {call.name: call for call in tiny.roundings()}
    for record in of.records:
        data = rounding.rounded(np, calls[record.call])
        assert replay.rounding_call(device, of, record, calls[record.call], data).problems == []


def test_the_driver_binds_what_kernels_take() -> None:
    """Launches are complete: every parameter has a buffer or bytes."""
    from metal_cuda.translate import translate

    for which in ("vectors", "large", "rounding"):
        of = recording(which)
        for record in of.records:
            assert record.refusal is None
            assert record.launches
            for launch in record.launches:
                kernel = translate(of.text(launch.text)).kernels[launch.entry]
                assert set(kernel.buffers) <= launch.buffers.keys() | launch.bytes.keys()
                assert not kernel.dynamic or launch.threadgroup_memory > 0
                assert launch.threads % 32 == 0


def test_barriers_are_found_and_removed() -> None:
    of = recording("vectors")
    total = 0
    for name in of.texts():
        text = of.text(name)
        found = barriers.barriers(text)
        total += len(found)
        assert len(found) == text.count("_barrier(")
        for one in found:
            rest = barriers.without(text, one.index)
            assert rest.count("_barrier(") == len(found) - 1
            assert rest.count("\n") == text.count("\n")
            assert "_barrier(" in text.splitlines()[one.line - 1]
            assert "_barrier(" not in rest.splitlines()[one.line - 1]
    assert total > 50
