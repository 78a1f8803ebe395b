"""Exact attention on FP32, FP16, BF16, INT8 and INT4 operands.

Start with `attention`. Arrays are NumPy's, torch CPU tensors, or of any library with DLPack or the
buffer protocol; they are used in place, and results are of the same library.
"""

from __future__ import annotations

import os

from umfa._errors import (
    BufferAllocation,
    InvalidArgument,
    InvalidContext,
    InvalidDimensions,
    InvalidIndex,
    InvalidType,
    KernelExecution,
    MFAError,
    Unsupported,
)
from umfa._native import (
    MFABuffer,
    MFAContext,
    QuantizedTensor,
    __version__,
    _after_fork,
    attention,
    devices,
    explain,
    flash_attention_backward,
    flash_attention_forward,
    get_num_threads,
    get_version,
    is_metal_available,
    merge,
    merge_backward,
    quantize,
    quantized_attention,
    set_num_threads,
    workspace_size,
)
from umfa._quantized import concatenate
from umfa._sdpa import SDPA, MetalSDPA
from umfa._sdpa import scaled_dot_product_attention as sdpa
from umfa._types import Device, QuantizationError, Version

__all__ = [
    "SDPA",
    "BufferAllocation",
    "Device",
    "InvalidArgument",
    "InvalidContext",
    "InvalidDimensions",
    "InvalidIndex",
    "InvalidType",
    "KernelExecution",
    "MFABuffer",
    "MFAContext",
    "MFAError",
    "MetalSDPA",
    "QuantizationError",
    "QuantizedTensor",
    "Unsupported",
    "Version",
    "__version__",
    "attention",
    "concatenate",
    "devices",
    "explain",
    "flash_attention_backward",
    "flash_attention_forward",
    "get_num_threads",
    "get_version",
    "is_metal_available",
    "merge",
    "merge_backward",
    "quantize",
    "quantized_attention",
    "sdpa",
    "set_num_threads",
    "workspace_size",
]

# Worker threads stay in the parent: contexts made before a fork are refused in the child, and the
# default one is made again. Where there is no fork, there is nothing to do.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
