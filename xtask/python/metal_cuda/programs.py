"""Machine code of texts, made in advance by several processes and kept in a folder."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import time
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from . import nvrtc
from .translate import Kernel, Refused, headers, translate

# Metal's safe mathematics; the same with subnormals flushed, as Apple's GPUs do in FP32; and with
# the fast functions that
# Metal takes where nothing else is said.
MODES = {"safe": (), "flush": ("-ftz=true",), "fast": ("-use_fast_math",)}
_QUIET = ("--diag-suppress=177,550",)
# Where in the text a hazard is, for the sanitizer.
LINES = ("-lineinfo",)


_NO_CONTRACTION = re.compile(r"^\s*#\s*pragma\s+METAL\s+fp\s+contract\(off\)", re.MULTILINE)


def options_of(text: str) -> tuple[str, ...]:
    """What a text's pragmas ask of the compiler."""
    return ("--fmad=false",) if _NO_CONTRACTION.search(text) else ()


@dataclass(frozen=True)
class Program:
    name: str
    source: str
    kernels: dict[str, Kernel]
    options: tuple[str, ...] = ()
    """Of the compiler, which the text asks for."""


class Programs:
    """Programs by the hash of their text."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.folder, self.architecture = folder, architecture
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Program] = {}

    def program(self, text: str) -> Program:
        if text not in self._known:
            translation = translate(text)
            name = hashlib.sha256((headers() + text).encode()).hexdigest()[:16]
            self._known[text] = Program(
                name, translation.program(), translation.kernels, options_of(text)
            )
        return self._known[text]

    def path(self, name: str, mode: str) -> Path:
        return self.folder / f"{name}.{mode}.{self.architecture}.cubin"

    def code(self, name: str, mode: str) -> bytes:
        return self.path(name, mode).read_bytes()

    def compile(
        self,
        texts: Iterable[str],
        modes: Iterable[str],
        lines: bool = False,
        seconds: float | None = None,
    ) -> Compiled:
        """Compiles what is not there yet. Texts that are refused are named with the reason.

        What has not begun after so many seconds is left, and counted.
        """
        started, refused, jobs = time.monotonic(), {}, []
        modes = list(modes)
        for text in dict.fromkeys(texts):
            try:
                program = self.program(text)
            except Refused as error:
                refused[text.splitlines()[0]] = str(error)
                continue
            jobs += [
                (program, mode) for mode in modes if not self.path(program.name, mode).exists()
            ]
        extra = LINES if lines else ()
        # New processes: those that are forked off a process with a GPU's context are not to be
        # trusted.
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=fresh) as pool:
            waiting = {
                pool.submit(
                    _compile,
                    program.source,
                    self.architecture,
                    (*MODES[mode], *_QUIET, *program.options, *extra),
                    self.path(program.name, mode),
                ): (program, mode)
                for program, mode in jobs
            }
            left = 0
            try:
                for done in as_completed(waiting, timeout=seconds):
                    program, mode = waiting[done]
                    try:
                        done.result()
                    except nvrtc.CompileError as error:
                        refused[f"{program.name} {mode}"] = str(error)
            except futures.TimeoutError:
                left = sum(future.cancel() for future in waiting)
        return Compiled(len(jobs) - left, time.monotonic() - started, refused, left)


@dataclass(frozen=True)
class Compiled:
    programs: int
    seconds: float
    refused: dict[str, str]
    left: int = 0
    """Programs for which there was no time."""


def _compile(source: str, architecture: str, options: tuple[str, ...], path: Path) -> None:
    code, _ = nvrtc.build(source, architecture, options)
    made = path.with_suffix(f".{os.getpid()}")
    made.write_bytes(code)
    made.replace(path)
