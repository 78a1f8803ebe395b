"""The exceptions of umfa: one for each code of the C contract."""

from __future__ import annotations

from typing import ClassVar

from umfa._constants import Status


class MFAError(Exception):
    """What every failure of umfa is. `code` is the status of the C contract."""

    code: ClassVar[Status]


class InvalidContext(MFAError):
    """The context is closed, or was made before a fork."""

    code = Status.INVALID_CONTEXT


class BufferAllocation(MFAError, MemoryError):
    """Memory could not be had."""

    code = Status.BUFFER_ALLOCATION


class InvalidDimensions(MFAError, ValueError):
    """A shape, a stride or their product is not legal."""

    code = Status.INVALID_DIMENSIONS


class KernelExecution(MFAError, RuntimeError):
    """The work began and failed; outputs are undefined."""

    code = Status.KERNEL_EXECUTION


class InvalidArgument(MFAError, ValueError):
    """Anything else that is wrong with an argument."""

    code = Status.INVALID_ARGUMENT


class InvalidType(InvalidArgument, TypeError):
    """An argument of the wrong type: no array, or another dtype."""


class InvalidIndex(InvalidArgument, IndexError):
    """A position that an axis does not have."""


class Unsupported(MFAError, NotImplementedError):
    """Legal, but this device cannot do it."""

    code = Status.UNSUPPORTED


for _kind in (MFAError, *MFAError.__subclasses__(), InvalidType, InvalidIndex):
    _kind.__module__ = "umfa"  # where callers find them, and what tracebacks show
del _kind
