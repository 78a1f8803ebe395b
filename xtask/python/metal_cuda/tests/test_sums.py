"""Sums in order: the kernels of sums.h on a processor, and before NVIDIA's compiler."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metal_cuda import nvrtc, sums
from metal_cuda.host import compiled

# What a launch does, and functions without CUDA's parameters.
PROGRAM = """
#include "cuda_on_host.h"
#include "sums.h"
static long long steps[6];
static int sizes[4];
#define REST steps[0], steps[1], steps[2], steps[3], steps[4], steps[5], sizes[0], sizes[1], sizes[2], sizes[3]
static void in_order(void **p) { sums_in_order((float *)p[0], (float *)p[1], (float *)p[2], REST); }
static void with_squares(void **p) {
  sums_with_squares((double *)p[0], (double *)p[1], (double *)p[2], (double *)p[3], REST);
}
extern "C" void run(
    int squares, void **p, const long long *of, const int *size, const unsigned *grid, unsigned threads) {
  for (int i = 0; i < 6; ++i) steps[i] = of[i];
  for (int i = 0; i < 4; ++i) sizes[i] = size[i];
  cuda_on_host::run(squares ? with_squares : in_order, p, grid, threads);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = os.environ.get("METAL_CUDA_LIBRARIES")
    # The name of a library comes from its program.
    program = PROGRAM + "".join(f"// {line}\n" for line in sums.SOURCE.read_text().splitlines())
    return compiled(program, Path(folder) if folder else tmp_path_factory.mktemp("libraries"))


def launch(library: ctypes.CDLL, a: Any, b: Any, *results: Any) -> None:
    """As sums._launch() does it, in launches of two batches."""
    across, down, batches = sums.grid(a, b)
    for first in range(0, batches, 2):
        rest = [int(x) for x in sums.arguments(a, b, first)]
        pointers = (ctypes.c_void_p * 4)(*(x.ctypes.data for x in (a, b, *results)))
        library.run(
            len(results) - 1,
            pointers,
            (ctypes.c_longlong * 6)(*rest[:6]),
            (ctypes.c_int * 4)(*rest[6:]),
            (ctypes.c_uint * 3)(across, down, min(batches - first, 2)),
            ctypes.c_uint(sums.THREADS),
        )


def matrices(kind: type, transposed: bool) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    if transposed:
        a = rng.standard_normal((3, 37, 70)).astype(kind).transpose(0, 2, 1)
        return a, rng.standard_normal((67, 37)).astype(kind).T
    return rng.standard_normal((3, 70, 37)).astype(kind), rng.standard_normal((3, 37, 67)).astype(
        kind
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_sum_in_order(library: ctypes.CDLL, transposed: bool) -> None:
    a, b = matrices(np.float32, transposed)
    expected = sums.product(np, a, b)
    total = np.zeros_like(expected)
    launch(library, a, b, total)
    assert np.array_equal(total, expected)
    # And they go on.
    launch(library, a, b, total)
    assert np.array_equal(total, sums.product(np, a, b, expected))
    backwards = sums.product(np, a[:, :, ::-1], b[..., ::-1, :])
    assert not np.array_equal(backwards, sums.product(np, a, b))


@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_sum_squares(library: ctypes.CDLL, transposed: bool) -> None:
    a, b = matrices(np.float64, transposed)
    expected = sums.Squares(np, (3, 70, 67))
    found = sums.Squares(np, (3, 70, 67))
    for _ in range(2):
        expected.add(a, b)
        launch(library, a, b, found.partial, found.squares)
    np.testing.assert_allclose(found.partial, expected.partial, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-13)


def test_parameters_are_those_of_the_kernels() -> None:
    a, b = matrices(np.float32, False)
    found = [(int(x), x.dtype.itemsize) for x in sums.arguments(a, b, 5)]
    expected = [(70 * 37, 8), (37, 8), (1, 8), (37 * 67, 8), (67, 8), (1, 8)]
    assert found == [*expected, (70, 4), (37, 4), (67, 4), (5, 4)]
    # A matrix for all batches.
    assert int(sums.arguments(a, b[0])[3]) == 0


def test_nvrtc_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    # As CuPy compiles them: functions are the processor's where nothing is said.
    monkeypatch.setattr(nvrtc, "OPTIONS", ("-std=c++17",))
    code, _ = nvrtc.build(sums.SOURCE.read_text(), "sm_90")
    assert code
