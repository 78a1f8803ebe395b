"""The examples of docstrings and of the README run."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import umfa

README = Path(__file__).parents[1] / "README.md"


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The docstrings of a module and of what it offers."""
    yield module.__name__, module.__doc__ or ""
    for name in module.__all__:
        member: Any = getattr(module, name)
        yield f"{module.__name__}.{name}", inspect.getdoc(member) or ""
        if inspect.isclass(member):
            for inner, value in vars(member).items():
                if not inner.startswith("_"):
                    yield f"{module.__name__}.{name}.{inner}", inspect.getdoc(value) or ""


def run(name: str, text: str) -> int:
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0, name
    return result.attempted


def test_docstrings() -> None:
    assert sum(run(name, text) for name, text in documented(umfa)) >= 8


def test_docstrings_of_umfa_torch(torch: Any) -> None:
    import umfa.torch as package

    assert torch is not None
    assert sum(run(name, text) for name, text in documented(package)) >= 3


@pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")
def test_readme() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
