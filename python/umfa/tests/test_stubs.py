"""The type stubs say what the native module is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import umfa
from umfa import _native


def test_stubs_match_the_module() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    config = Path(__file__).parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "mypy.stubtest", "umfa._native"]
    command += ["--mypy-config-file", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_is_typed() -> None:
    assert Path(umfa.__file__).with_name("py.typed").exists()


def test_everything_public_is_documented() -> None:
    for name in umfa.__all__:
        if name != "__version__":
            assert getattr(umfa, name).__doc__, name
    for kind in (_native.MFAContext, _native.MFABuffer, _native.QuantizedTensor):
        for name, member in vars(kind).items():
            if not name.startswith("_"):
                assert member.__doc__, f"{kind.__name__}.{name}"
