"""Launches on an NVIDIA GPU, with CuPy."""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from .programs import Programs
from .records import Launch
from .translate import Kernel

# Bytes to which arguments are aligned.
_ALIGNMENT = 256


class Device:
    """A GPU with kernels in one mode of arithmetic."""

    xp = cp

    def __init__(self, programs: Programs, mode: str) -> None:
        self.programs = programs
        self.mode = mode
        self._functions: dict[tuple[str, str], Any] = {}
        self._modules: list[Any] = []

    def buffer(self, size: int, contents: bytes | None) -> Any:
        if contents is None:
            return cp.full(size, 0xFF, cp.uint8)
        return cp.asarray(np.frombuffer(contents, np.uint8))

    def bytes_of(self, memory: Any) -> Any:
        return cp.asnumpy(memory)

    def launch(self, text: str, launch: Launch, buffers: list[Any]) -> None:
        program = self.programs.program(text)
        kernel = program.kernels[launch.entry]
        key = (program.name, launch.entry)
        if key not in self._functions:
            module = cp.cuda.function.Module()
            module.load(self.programs.code(program.name, self.mode))
            self._modules.append(module)
            self._functions[key] = module.get_function(launch.entry)
        self.start(self._functions[key], kernel, launch, buffers)

    @staticmethod
    def start(function: Any, kernel: Kernel, launch: Launch, buffers: list[Any]) -> None:
        """Binds what a launch binds, and starts it."""
        # setBytes: one buffer for all of a launch.
        places, size = {}, 0
        for index in kernel.buffers:
            if index in launch.bytes:
                places[index] = size
                size += -(-len(launch.bytes[index]) // _ALIGNMENT) * _ALIGNMENT
        constants = np.zeros(max(size, 1), np.uint8)
        for index, place in places.items():
            constants[place : place + len(launch.bytes[index])] = np.frombuffer(
                launch.bytes[index], np.uint8
            )
        held = cp.asarray(constants)
        pointers = []
        for index in kernel.buffers:
            if index in places:
                pointers.append(np.uint64(held.data.ptr + places[index]))
            elif index in launch.buffers:
                number, offset = launch.buffers[index]
                pointers.append(np.uint64(buffers[number].data.ptr + offset))
            else:
                raise RuntimeError(f"nothing is bound to buffer {index} of {launch.entry}")
        dynamic = launch.threadgroup_memory if kernel.dynamic else 0
        function(tuple(launch.grid), (launch.threads, 1, 1), tuple(pointers), shared_mem=dynamic)

    def finish(self) -> None:
        cp.cuda.Device().synchronize()


def machine() -> dict[str, str]:
    """What results say of the machine."""
    properties = cp.cuda.runtime.getDeviceProperties(0)
    runtime, driver = cp.cuda.runtime.runtimeGetVersion(), cp.cuda.runtime.driverGetVersion()
    return {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "cuda_driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "cuda_runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "cupy": cp.__version__,
    }


def architecture() -> str:
    properties = cp.cuda.runtime.getDeviceProperties(0)
    return f"sm_{properties['major']}{properties['minor']}"


class _MakeDevice:
    def __call__(self, programs: Programs, mode: str) -> Device:
        return Device(programs, mode)

    @staticmethod
    def release() -> None:
        """Gives memory back that nobody holds."""
        cp.get_default_memory_pool().free_all_blocks()


make_device = _MakeDevice()
