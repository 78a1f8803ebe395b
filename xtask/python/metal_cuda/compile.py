"""Compiles kernels' texts as CUDA C++: `python -m metal_cuda.compile [--machine-code] PATH…`.

A path is a text, or a folder of them (*.metal, *.metal.txt). Without options each text passes the
compiler's front end, which
resolves every overload and instantiates every template, and makes no code: tenths of a second.
With --machine-code it
is compiled for a GPU to the end.

Several processes work at once. What was refused is printed with the compiler's message, and makes
the program fail.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from . import nvrtc
from .translate import Refused, translate

FRONT_END = ("-fdevice-syntax-only",)
# Unused variables and functions are a text's own business.
QUIET = ("--diag-suppress=177,550",)


def texts(paths: list[Path]) -> list[Path]:
    """The files that the paths name, in order of name; a folder without texts is an error."""
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        inside = sorted([*path.rglob("*.metal"), *path.rglob("*.metal.txt")])
        if not inside:
            raise FileNotFoundError(f"{path} has no texts")
        found += inside
    return found


def refusal(path: Path, machine_code: bool = False) -> str | None:
    """What is wrong with a text, or None."""
    try:
        translation = translate(path.read_text())
        if not translation.kernels:
            return "the text has no kernel"
        if machine_code:
            nvrtc.build(translation.program(), "sm_90", QUIET)
        else:
            nvrtc.build(translation.program(), "compute_90", (*FRONT_END, *QUIET))
    except (Refused, nvrtc.CompileError) as error:
        return str(error)
    return None


def workers() -> int:
    return len(os.sched_getaffinity(0))


def main() -> int:
    parser = argparse.ArgumentParser(prog="metal_cuda.compile", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--machine-code", action="store_true", help="compile to the end, for a GPU")
    arguments = parser.parse_args()
    started, files, refused = time.monotonic(), texts(arguments.paths), 0
    with ProcessPoolExecutor(workers()) as pool:
        results = pool.map(refusal, files, [arguments.machine_code] * len(files), chunksize=4)
        for at, (file, why) in enumerate(zip(files, results), 1):
            if why is not None:
                refused += 1
                print(f"{file.name}: refused\n{why}", file=sys.stderr)
            elif at % 100 == 0:
                print(f"{at} of {len(files)}", flush=True)
    seconds = time.monotonic() - started
    print(f"NVRTC {nvrtc.version()}: {len(files)} texts in {seconds:.0f} s, {workers()} at once")
    print(f"{len(files) - refused} passed, {refused} failed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
