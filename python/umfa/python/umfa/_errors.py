"""The exceptions of umfa: one for each code of the C contract."""

from __future__ import annotations

from typing import ClassVar


class MFAError(Exception):
    """What every failure of umfa is. `code` is the status of the C contract."""

    code: ClassVar[int]


class InvalidContext(MFAError):
    """The context is closed, or was made before a fork."""

    code = 1


class BufferAllocation(MFAError, MemoryError):
    """Memory could not be had."""

    code = 2


class InvalidDimensions(MFAError, ValueError):
    """A shape, a stride or their product is not legal."""

    code = 3


class KernelExecution(MFAError, RuntimeError):
    """The work began and failed; outputs are undefined."""

    code = 4


class InvalidArgument(MFAError, ValueError):
    """Anything else that is wrong with an argument."""

    code = 5


class InvalidType(InvalidArgument, TypeError):
    """An argument of the wrong type: no array, or another dtype."""


class Unsupported(MFAError, NotImplementedError):
    """Legal, but this device cannot do it."""

    code = 6
