"""Small records that umfa returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Version(NamedTuple):
    """A version of the library; its `str` is "major.minor.patch"."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Device:
    """A device that umfa can use."""

    index: int
    """Its index in `umfa.devices()`."""
    name: str
    kind: str
    """ "cpu", "gpu", "accelerator" or "other"."""
    vendor: str
    """Its vendor; "" if the driver does not know it."""
    backend: str
    """The interface by which its driver programs it: "cpu" or "metal"."""
    driver: str
    """ "linked", or the path of the driver's library."""


class QuantizationError(NamedTuple):
    """What rounding did to a tensor, over all its elements."""

    rmse: float
    """sqrt(mean((dequantized - source)^2))"""
    relative_rmse: float
    """rmse / sqrt(mean(source^2)); 0 for an all-zero source"""
    max_abs: float
    """max |dequantized - source|"""
    worst_row_rmse: float
    """The largest RMSE of a row."""
