"""Contexts behind the numbers that stand for them in an operator's arguments."""

from __future__ import annotations

import itertools
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from umfa import _native
from umfa._errors import InvalidArgument, InvalidType, Unsupported

_CONTEXTS: WeakValueDictionary[int, _native.MFAContext] = WeakValueDictionary()
_NUMBERS: WeakKeyDictionary[_native.MFAContext, int] = WeakKeyDictionary()
_TRACED: dict[int, _native.MFAContext] = {}
"""Those in a compiled graph, which may be run for as long as the process lives."""

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # from PyTorch 2.7 on
_numbers = itertools.count(1)
_default: _native.MFAContext | None = None


def number_of(context: _native.MFAContext | None) -> int:
    """The number of `context`; 0 is the default one."""
    if context is None:
        return 0
    if _is_exporting():
        raise Unsupported(
            "context: an exported program is run in other processes, which have other contexts; "
            "expected None"
        )
    if torch.compiler.is_compiling():
        number: int = _traced_number(context)
        return number
    return _number(context)


def _number(context: _native.MFAContext) -> int:
    if not isinstance(context, _native.MFAContext):
        raise InvalidType(f"context: {type(context).__name__}, expected an umfa.MFAContext or None")
    number = _NUMBERS.get(context)
    if number is None:
        number = _NUMBERS[context] = next(_numbers)
        _CONTEXTS[number] = context
    return number


@torch._dynamo.assume_constant_result
def _traced_number(context: _native.MFAContext) -> int:
    number = _number(context)
    _TRACED[number] = context
    return number


def context_of(number: int) -> _native.MFAContext:
    global _default
    if number:
        found = _CONTEXTS.get(number)
        if found is None:
            raise InvalidArgument(
                f"context: number {number} is no live context of this process; a graph that was "
                "saved keeps no context, expected one without context="
            )
        return found
    if _default is None or _default.closed:
        _default = _native.MFAContext()
    return _default
