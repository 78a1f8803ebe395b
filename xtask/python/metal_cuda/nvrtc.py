"""NVIDIA's run-time compiler, by ctypes: a library and no GPU is all that it needs."""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path


class CompileError(RuntimeError):
    """The compiler refused a program."""


@cache
def library() -> ctypes.CDLL:
    """The library that NVRTC= names, that of the package nvidia-cuda-nvrtc, or the system's."""
    named = os.environ.get("NVRTC")
    if named:
        return ctypes.CDLL(named)
    packages = Path(sysconfig.get_path("platlib"))
    found = sorted(packages.glob("nvidia/*/lib/libnvrtc.so.*"))
    for path in [str(p) for p in found] + [f"libnvrtc.so.{n}" for n in (13, 12)]:
        try:
            # It asks for its built-in functions by name: they are loaded before.
            for builtins in Path(path).parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise FileNotFoundError("no NVRTC: install nvidia-cuda-nvrtc, or name the library with NVRTC=")


def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


OPTIONS = ("-std=c++17", "-default-device")


def build(
    program: str, architecture: str = "compute_90", options: tuple[str, ...] = ()
) -> tuple[bytes, str]:
    """PTX (for compute_xx) or machine code (for sm_xx), and what the compiler had to say."""
    nvrtc = library()
    handle = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(handle), program.encode(), b"program.cu", 0, None, None)
    try:
        flags = (f"--gpu-architecture={architecture}", *OPTIONS, *options)
        status = nvrtc.nvrtcCompileProgram(
            handle, len(flags), (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
        )
        log = _read(handle, "ProgramLog").decode(errors="replace").rstrip("\0\n")
        if status != 0:
            raise CompileError(log or f"NVRTC ended with status {status}")
        if "-fdevice-syntax-only" in options:
            return b"", log
        return _read(handle, "CUBIN" if architecture.startswith("sm_") else "PTX"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))


def _read(handle: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library(), f"nvrtcGet{what}Size")(handle, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library(), f"nvrtcGet{what}")(handle, buffer)
    return buffer.raw
