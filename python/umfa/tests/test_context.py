"""Contexts and buffers: their life, threads and processes."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]


def test_a_context_closes_with_its_block(normal: Draw) -> None:
    x = normal(4, 8)
    with umfa.MFAContext("auto") as context:
        assert not context.closed
        umfa.flash_attention_forward(context, x, x, x)
        assert context.latency > 0
        assert context.device in repr(context)
    assert context.closed
    assert repr(context) == "MFAContext(closed)"
    context.close()
    uses: list[Callable[[], Any]] = [
        lambda: umfa.flash_attention_forward(context, x, x, x),
        lambda: umfa.quantize(x, context=context),
        lambda: umfa.MFABuffer(context, 8),
        lambda: context.device,
        lambda: context.num_threads,
        lambda: context.__enter__(),
    ]
    for use in uses:
        with pytest.raises(umfa.InvalidContext, match="the context is closed, expected an open"):
            use()


def test_contexts_of_every_name() -> None:
    device = umfa.devices()[0]
    for name in ("auto", device.backend, device.name, device.index, np.int64(0)):
        with umfa.MFAContext(name) as context:
            assert context.device == device.name
    for name in ("tpu", 99, -1, 1.5, True, None, b"cpu"):
        if name is None:
            continue
        with pytest.raises(umfa.InvalidArgument, match="expected"):
            umfa.MFAContext(name)  # type: ignore[arg-type]


def test_a_context_is_no_context() -> None:
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(TypeError):
        umfa.flash_attention_forward(None, x, x, x)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        umfa.attention(x, x, x, "cpu")  # type: ignore[call-overload]


def test_threads_of_contexts() -> None:
    with umfa.MFAContext("cpu", num_threads=3) as context:
        assert context.num_threads == 3
        context.num_threads = 1
        assert context.num_threads == 1
        context.num_threads = 0
        default = context.num_threads
        assert default >= 1
    before = umfa.get_num_threads()
    try:
        umfa.set_num_threads(5)
        assert umfa.get_num_threads() == 5
        with umfa.MFAContext("cpu") as context:
            assert context.num_threads == 5
        umfa.set_num_threads(0)
        assert umfa.get_num_threads() == default
    finally:
        umfa.set_num_threads(before)
    for wrong in (-1, 1.5, "2", True):
        with pytest.raises(umfa.InvalidArgument, match="num_threads: "):
            umfa.set_num_threads(wrong)  # type: ignore[arg-type]


def test_the_same_bits_on_any_number_of_threads(normal: Draw) -> None:
    q, k, v = normal(2, 4, 130, 64), normal(2, 2, 300, 64), normal(2, 2, 300, 64)
    results = []
    for threads in (1, 2, 3):
        with umfa.MFAContext("cpu", num_threads=threads) as context:
            results.append(umfa.attention(q, k, v, context))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_the_gil_is_released(normal: Draw) -> None:
    x = normal(1, 4, 4096, 64)
    progress = 0
    done = threading.Event()

    def count() -> None:
        nonlocal progress
        while not done.is_set():
            progress += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    with umfa.MFAContext("cpu", num_threads=1) as context:
        umfa.attention(x[:, :, :16], x, x, context)
        # A thread that holds the GIL for the whole call could not be interrupted by this one.
        sys.setswitchinterval(100.0)
        counter = threading.Thread(target=count)
        try:
            counter.start()
            before = progress
            umfa.attention(x, x, x, context)
            during = progress - before
        finally:
            sys.setswitchinterval(interval)
            done.set()
            counter.join()
    assert during > 100


def test_threads_share_a_context(normal: Draw, context: umfa.MFAContext) -> None:
    inputs = [normal(1, 2, 64, 32) for _ in range(8)]
    expected = [umfa.attention(x, x, x) for x in inputs]
    found: list[Any] = [None] * len(inputs)

    def work(i: int) -> None:
        for _ in range(20):
            found[i] = umfa.flash_attention_forward(context, inputs[i], inputs[i], inputs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


def test_closing_waits_for_calls(normal: Draw) -> None:
    x = normal(1, 4, 1024, 64)
    expected = umfa.attention(x, x, x)
    for _ in range(5):
        context = umfa.MFAContext()
        found: list[Any] = []
        started = threading.Event()

        def work(context: umfa.MFAContext, found: list[Any], started: threading.Event) -> None:
            started.set()
            try:
                found.append(umfa.attention(x, x, x, context))
            except umfa.InvalidContext:
                found.append(None)

        worker = threading.Thread(target=work, args=(context, found, started))
        worker.start()
        started.wait()
        context.close()
        worker.join()
        if found[0] is not None:
            np.testing.assert_array_equal(found[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_makes_its_own_contexts(normal: Draw, context: umfa.MFAContext) -> None:
    x = normal(2, 4, 256, 64)
    expected = umfa.attention(x, x, x)
    umfa.flash_attention_forward(context, x, x, x)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"wrong"
        try:
            try:
                umfa.flash_attention_forward(context, x, x, x)
            except umfa.InvalidContext as error:
                if "before os.fork()" in str(error):
                    context.close()
                    with umfa.MFAContext() as own:
                        same = np.array_equal(umfa.attention(x, x, x, own), expected)
                    if same and np.array_equal(umfa.attention(x, x, x), expected):
                        answer = b"right"
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"right"
    os.waitpid(child, 0)
    np.testing.assert_array_equal(umfa.flash_attention_forward(context, x, x, x), expected)


def test_buffers_are_seen_as_arrays(context: umfa.MFAContext) -> None:
    with umfa.MFABuffer(context, 1024) as buffer:
        assert len(buffer) == buffer.nbytes == 1024
        assert buffer.address % 64 == 0
        array = buffer.as_array("float32", (4, 8), offset=64)
        assert array.ctypes.data == buffer.address + 64
        array[:] = 3
        assert (np.asarray(buffer).view(np.float32)[16:48] == 3).all()
        assert buffer.as_array().shape == (256,)
        assert buffer.as_array("int8", 10).shape == (10,)
        out = buffer.as_array("float32", (4, 8))
        x = np.ones((4, 8), np.float32)
        assert umfa.attention(x, x, x, out=out) is out
    assert buffer.closed
    assert repr(buffer) == "MFABuffer(closed)"
    buffer.close()
    with pytest.raises(umfa.InvalidArgument, match="the buffer is closed"):
        buffer.as_array()
    # the memory lives as long as the array
    assert (out == 1).all()


def test_buffers_wrap_arrays(normal: Draw, context: umfa.MFAContext, torch: Any) -> None:
    x = normal(4, 8)
    alive = weakref.ref(x)
    buffer = umfa.MFABuffer.from_array(context, x)
    assert buffer.address == x.ctypes.data
    assert buffer.nbytes == x.nbytes
    np.testing.assert_array_equal(buffer.as_array("float32", (4, 8)), x)
    del x
    gc.collect()
    assert alive() is not None
    buffer.close()
    gc.collect()
    assert alive() is None
    tensor = torch.ones(3)
    assert umfa.MFABuffer.from_array(context, tensor).address == tensor.data_ptr()
    locked = np.ones(4, np.float32)
    locked.flags.writeable = False
    assert not umfa.MFABuffer.from_array(context, locked).as_array().flags.writeable


def test_bfloat16_of_buffers(context: umfa.MFAContext, ml_dtypes: Any) -> None:
    assert umfa.MFABuffer(context, 8).as_array("bfloat16").dtype == ml_dtypes.bfloat16


def test_bfloat16_without_its_package(
    context: umfa.MFAContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(umfa.Unsupported, match="expected ml_dtypes") as caught:
        umfa.MFABuffer(context, 8).as_array("bfloat16", 4)
    assert isinstance(caught.value.__cause__, ImportError)
    assert umfa.MFABuffer(context, 8).as_array("float16", 4).shape == (4,)


def test_bad_buffers(context: umfa.MFAContext) -> None:
    buffer = umfa.MFABuffer(context, 16)
    assert umfa.MFABuffer(context, 0).as_array().shape == (0,)
    with pytest.raises(umfa.InvalidDimensions, match="expected at most the 16 bytes"):
        buffer.as_array("float32", (5,))
    with pytest.raises(umfa.InvalidDimensions, match="expected at most the 16 bytes"):
        buffer.as_array("int8", 1, offset=17)
    with pytest.raises(umfa.InvalidDimensions):
        buffer.as_array("int8", (1 << 40, 1 << 40))
    with pytest.raises(umfa.InvalidArgument, match="dtype: 'complex64', expected"):
        buffer.as_array("complex64")
    for size in (-1, 1.5, "8"):
        with pytest.raises(umfa.InvalidArgument, match="size: "):
            umfa.MFABuffer(context, size)  # type: ignore[arg-type]
    with pytest.raises(umfa.BufferAllocation):
        umfa.MFABuffer(context, 1 << 60)
    with pytest.raises(umfa.InvalidDimensions, match="array: strided memory"):
        umfa.MFABuffer.from_array(context, np.zeros(8, np.float32)[::2])


def test_what_is_installed() -> None:
    version = umfa.get_version()
    assert str(version) == ".".join(map(str, version))
    assert umfa.__version__.count(".") == 2
    assert isinstance(umfa.is_metal_available(), bool)
    assert umfa.is_metal_available() == any(d.backend == "metal" for d in umfa.devices())


def test_devices_are_described() -> None:
    devices = umfa.devices()
    assert [d.index for d in devices] == list(range(len(devices)))
    for device in devices:
        assert device.name
        assert device.backend
        assert device.driver
        assert device.kind in ("cpu", "gpu", "accelerator")
        assert isinstance(device.vendor, str)
    # The engine that is compiled in is always there, and last.
    assert (devices[-1].backend, devices[-1].kind) == ("cpu", "cpu")
    assert devices[-1].driver == "linked"


def test_a_buffer_holds_the_memory_that_was_exported(context: umfa.MFAContext) -> None:
    memory = bytearray(1 << 20)
    buffer = umfa.MFABuffer.from_array(context, memory)
    for change in (memory.clear, lambda: memory.extend(b"x")):
        with pytest.raises(BufferError):
            change()
    seen = buffer.as_array("uint8")
    buffer.close()
    with pytest.raises(BufferError):
        memory.clear()
    seen[3] = 7
    assert memory[3] == 7
    del seen
    gc.collect()
    memory.clear()


def test_a_buffer_outlives_what_exported_its_memory(context: umfa.MFAContext) -> None:
    exported: list[Any] = []

    class Exporter:
        """Exports memory that nothing but the capsule keeps."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

        def __dlpack__(self, **_: Any) -> Any:
            array = np.full(1 << 18, 3.0, np.float32)
            exported.append(weakref.ref(array))
            return array.__dlpack__()

    exporter = Exporter()
    buffer = umfa.MFABuffer.from_array(context, exporter)
    del exporter
    gc.collect()
    assert exported[-1]() is not None
    assert (buffer.as_array() == 3.0).all()
    del buffer
    gc.collect()
    assert exported[-1]() is None


def test_a_buffer_outlives_the_memory_of_a_tensor(context: umfa.MFAContext, torch: Any) -> None:
    tensor = torch.full((1 << 18,), 3.0)
    buffer = umfa.MFABuffer.from_array(context, tensor)
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.resize_(1 << 20)
    tensor.set_(torch.zeros(2))
    gc.collect()
    assert (buffer.as_array() == 3.0).all()
    for dtype in (torch.bfloat16, torch.bool, torch.int64):
        other = torch.ones((2, 3), dtype=dtype)
        assert umfa.MFABuffer.from_array(context, other).address == other.data_ptr()
