"""mfa.h in ctypes: the structs, and a driver library."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_float,
    c_int32,
    c_int64,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from pathlib import Path
from typing import Any

import numpy as np

SCALE, CAUSAL, WINDOW = 1, 2, 4
REFUSED = (3, 5, 6)
UNSUPPORTED = 6


class Refused(Exception):
    """A status other than 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


class Sized(Structure):
    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=sizeof(type(self)), **fields)


class Quantization(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("granularity", c_int32),
        ("block_rows", c_uint32),
        ("group_size", c_uint32),
        ("scale", c_float),
        ("zero_point", c_int32),
        ("scale_buffer", c_void_p),
        ("scale_offset", c_uint64),
        ("scale_precision", c_int32),
        ("rotated", c_uint32),
        ("zero_point_buffer", c_void_p),
        ("zero_point_offset", c_uint64),
        ("zero_point_bytes", c_uint32),
        ("reserved", c_uint32),
        ("scale_strides", c_int64 * 4),
        ("mean_buffer", c_void_p),
        ("mean_offset", c_uint64),
    ]


class Tensor(Structure):
    _fields_ = [
        ("buffer", c_void_p),
        ("byte_offset", c_uint64),
        ("precision", c_int32),
        ("reserved", c_uint32),
        ("shape", c_uint64 * 4),
        ("strides", c_int64 * 4),
        ("quantization", POINTER(Quantization)),
    ]


class Options(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("softmax_scale", c_float),
        ("softcap", c_float),
        ("alignment", c_int32),
        ("compute", c_int32),
        ("window_left", c_int64),
        ("window_right", c_int64),
        ("mask", Tensor),
        ("alibi_slopes", Tensor),
        ("sinks", Tensor),
        ("sequence_count", c_uint32),
        ("reserved", c_uint32),
        ("cu_seqlens_q", c_void_p),
        ("cu_seqlens_q_offset", c_uint64),
        ("cu_seqlens_k", c_void_p),
        ("cu_seqlens_k_offset", c_uint64),
        ("seqlens_k", c_void_p),
        ("seqlens_k_offset", c_uint64),
    ]


class Forward(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("output", Tensor),
        ("logsumexp", Tensor),
        ("options", POINTER(Options)),
    ]


class Backward(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("output", Tensor),
        ("grad_output", Tensor),
        ("logsumexp", Tensor),
        ("d_values", Tensor),
        ("grad_query", Tensor),
        ("grad_key", Tensor),
        ("grad_value", Tensor),
        ("grad_mask", Tensor),
        ("grad_sinks", Tensor),
        ("options", POINTER(Options)),
    ]


_FIXED = [c_uint32, c_uint32, c_uint32, c_uint32, c_uint16]
_TRANSPOSED = [c_bool] * 4
_SCALED = [c_float, c_int32]

SIGNATURES: dict[str, list[Any]] = {
    "mfa_create_context": [POINTER(c_void_p)],
    "mfa_destroy_context": [c_void_p],
    "mfa_buffer_from_ptr": [c_void_p, c_void_p, c_uint64, POINTER(c_void_p)],
    "mfa_destroy_buffer": [c_void_p],
    "mfa_forward": [c_void_p, POINTER(Forward)],
    "mfa_backward": [c_void_p, POINTER(Backward)],
    "mfa_attention_forward": [
        *[c_void_p] * 5,
        *_FIXED,
        *[c_float, c_bool],
        *[c_int32] * 3,
        *_TRANSPOSED,
    ],
    "mfa_attention_forward_quantized": [
        *[c_void_p] * 6,
        *_FIXED,
        *[c_float, c_bool],
        *[c_int32] * 3,
        *_SCALED * 3,
        *_TRANSPOSED,
    ],
    "mfa_attention_backward_query_quantized": [*[c_void_p] * 8, *_FIXED, *_SCALED],
    "mfa_attention_backward_kv_quantized": [*[c_void_p] * 9, *_FIXED, *_SCALED * 3],
}


def library_path() -> Path | None:
    """MFA_DRIVER, MFA_LIBRARY, or what cargo has built."""
    for variable in ("MFA_DRIVER", "MFA_LIBRARY"):
        if os.environ.get(variable):
            return Path(os.environ[variable])
    name = "libmfa_cpu.dylib" if sys.platform == "darwin" else "libmfa_cpu.so"
    built = Path(__file__).parents[2] / "target" / "debug" / name
    return built if built.exists() else None


class Library:
    """A driver, and a context on it."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name, arguments in SIGNATURES.items():
            function = getattr(self.c, name)
            function.argtypes, function.restype = arguments, c_int32
        self.c.mfa_last_error.argtypes, self.c.mfa_last_error.restype = [c_void_p], c_char_p
        self.context = c_void_p()
        self.call("mfa_create_context", byref(self.context))

    def call(self, entry: str, *arguments: Any) -> None:
        status = getattr(self.c, entry)(*arguments)
        if status != 0:
            raise Refused(status, (self.c.mfa_last_error(None) or b"").decode())


class Memory:
    """The buffers of one call."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.handles: list[c_void_p] = []
        self.kept: list[Any] = []

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            self.library.call("mfa_destroy_buffer", handle)

    def buffer(self, x: np.ndarray) -> tuple[c_void_p, int]:
        """A handle for the memory that a view can reach from its first element on."""
        self.kept.append(x)
        last = sum((n - 1) * s for n, s in zip(x.shape, x.strides)) if x.size else -x.itemsize
        handle = c_void_p()
        address = c_void_p(x.ctypes.data)
        size = last + x.itemsize
        self.library.call("mfa_buffer_from_ptr", self.library.context, address, size, byref(handle))
        self.handles.append(handle)
        return handle, size

    def tensor(self, x: np.ndarray, precision: int, quantization: Any = None) -> Tensor:
        """A view of rank 4. Of INT4, an array of pairs, one byte each."""
        pairs = 2 if precision == 4 else 1
        handle, _ = self.buffer(x)
        strides = [s // x.itemsize * pairs for s in x.strides[:3]]
        result = Tensor(buffer=handle, precision=precision)
        result.shape = (*x.shape[:3], x.shape[3] * pairs)
        result.strides = (*strides, 1 if pairs == 2 else x.strides[3] // x.itemsize)
        if quantization is not None:
            result.quantization = ctypes.pointer(quantization)
            self.kept.append(quantization)
        return result
