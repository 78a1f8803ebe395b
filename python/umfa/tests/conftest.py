from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., npt.NDArray[np.float32]]:
    """Draws float32 arrays of N(0, 1)."""

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    return draw


@pytest.fixture
def context() -> Iterator[umfa.MFAContext]:
    with umfa.MFAContext() as opened:
        yield opened


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def ml_dtypes() -> Any:
    return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
