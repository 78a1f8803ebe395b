"""Runs translated kernels on a processor, threadgroup after threadgroup.

A test of the translation and of the records without a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .records import Launch
from .translate import FOLDER, Kernel, translate

Memory = np.ndarray[Any, np.dtype[np.uint8]]


class CompilerFailed(RuntimeError):
    pass


def _main(kernels: dict[str, Kernel]) -> str:
    """A function for each kernel that calls it with pointers."""
    lines = []
    for kernel in kernels.values():
        # Types of parameters are the text's own: they are deduced.
        lines.append(
            f"""
template <class... P> static void call_{kernel.name}(void (*f)(P...), void **p) {{
  int i = 0;
  std::tuple<P...> all{{static_cast<P>(p[i++])...}};
  std::apply(f, all);
}}
static void body_{kernel.name}(void **p) {{ call_{kernel.name}(&msl::{kernel.name}, p); }}
extern "C" void run_{kernel.name}(void **p, const unsigned *grid, unsigned threads) {{
  cuda_on_host::run(body_{kernel.name}, p, grid, threads);
}}"""
        )
    return "#include <tuple>\n" + "\n".join(lines) + "\n"


def compiled(program: str, folder: Path) -> ctypes.CDLL:
    """A shared library of a C++ program, compiled once."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(program.encode()).hexdigest()[:16]
    library, source = folder / f"{name}.so", folder / f"{name}.cpp"
    if not library.exists():
        source.write_text(program)
        command = [
            os.environ.get("CXX", "g++"),
            "-std=c++20",
            "-O1",
            "-w",
            "-shared",
            "-fPIC",
            "-DMSL_ON_HOST",
        ]
        # A name of its own until it is whole.
        made = library.with_suffix(f".{os.getpid()}")
        command += ["-ffp-contract=off", f"-I{FOLDER}", str(source), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompilerFailed(result.stderr)
        made.replace(library)
    return ctypes.CDLL(str(library))


class HostDevice:
    """Launches on NumPy's memory."""

    xp = np

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def buffer(self, size: int, contents: bytes | None) -> Memory:
        if contents is None:
            return np.full(size, 0xFF, np.uint8)
        return np.frombuffer(contents, np.uint8).copy()

    def launch(self, text: str, launch: Launch, buffers: list[Memory]) -> None:
        translation = translate(text)
        kernel = translation.kernels[launch.entry]
        library = compiled(translation.program() + _main(translation.kernels), self.folder)
        held = []
        pointers = (ctypes.c_void_p * max(len(kernel.buffers), 1))()
        for at, index in enumerate(kernel.buffers):
            if index in launch.bytes:
                held.append(np.frombuffer(launch.bytes[index], np.uint8).copy())
                pointers[at] = held[-1].ctypes.data
            else:
                number, offset = launch.buffers[index]
                pointers[at] = buffers[number].ctypes.data + offset
        grid = (ctypes.c_uint * 3)(*launch.grid)
        getattr(library, f"run_{kernel.name}")(pointers, grid, ctypes.c_uint(launch.threads))

    def bytes_of(self, memory: Memory) -> Memory:
        return memory
