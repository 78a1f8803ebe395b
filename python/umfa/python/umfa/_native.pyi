from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Literal, SupportsIndex, TypeVar, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from umfa._types import Device, QuantizationError, Version

__all__ = [
    "MFABuffer",
    "MFAContext",
    "Memory",
    "QuantizedTensor",
    "__version__",
    "_after_fork",
    "_check_options",
    "_operand",
    "_options",
    "_sdpa",
    "attention",
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
    "set_num_threads",
    "workspace_size",
]

__version__: str

_T = TypeVar("_T")
_V = TypeVar("_V")

_Name = Literal["int8", "int4"]
_Precision = _Name | type[np.int8] | np.dtype[np.int8]
_Granularity = Literal["tensor", "row", "block", "channel"]
_Alignment = Literal["top_left", "bottom_right"]
_Layout = Literal["BHND", "BNHD"]
_Compute = Literal["exact", "fast"]
_ScaleDtype = (
    Literal["float32", "float16"]
    | type[np.float32 | np.float16]
    | np.dtype[np.float32]
    | np.dtype[np.float16]
)
_ZeroPointDtype = (
    Literal["int8", "int32"] | type[np.int8 | np.int32] | np.dtype[np.int8] | np.dtype[np.int32]
)
_Dtype = Literal["float32", "float16", "bfloat16"] | npt.DTypeLike
_PerOperand = _V | Mapping[str, _V]
"""One value for query, key and value, or a mapping from "q", "k" and "v"."""
_Window = SupportsIndex | Sequence[SupportsIndex | None] | npt.NDArray[np.integer[Any]]
"""The same reach on both sides, or (left, right)."""

@final
class MFAContext:
    def __new__(cls, device: str | SupportsIndex = "auto", *, num_threads: int = 0) -> Self: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def device(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @num_threads.setter
    def num_threads(self, value: int) -> None: ...
    @property
    def latency(self) -> float: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Memory:
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

@final
class MFABuffer:
    def __new__(cls, context: MFAContext, size: SupportsIndex) -> Self: ...
    @staticmethod
    def from_array(context: MFAContext, array: Any) -> MFABuffer: ...
    def as_array(
        self,
        dtype: npt.DTypeLike = "float32",
        shape: SupportsIndex | Sequence[SupportsIndex] | None = None,
        offset: int = 0,
    ) -> npt.NDArray[Any]: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    def __len__(self) -> int: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

_Index = slice | EllipsisType | Sequence[int] | npt.NDArray[Any]

@final
class QuantizedTensor:
    def __new__(
        cls,
        data: Any,
        scale: Any,
        zero_point: Any = None,
        mean: Any = None,
        precision: _Precision = "int8",
        granularity: _Granularity = "tensor",
        block_rows: int | None = 64,
        group: Literal[32, 64] | None = None,
        rotated: bool = False,
        shape: Sequence[int] | None = None,
        layout: _Layout = "BHND",
        error: QuantizationError | None = None,
    ) -> Self: ...
    @property
    def data(self) -> Any: ...
    @property
    def scale(self) -> Any: ...
    @property
    def zero_point(self) -> Any: ...
    @property
    def mean(self) -> Any: ...
    @property
    def error(self) -> QuantizationError | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def precision(self) -> _Name: ...
    @property
    def granularity(self) -> _Granularity: ...
    @property
    def block_rows(self) -> int | None: ...
    @property
    def group(self) -> Literal[32, 64] | None: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def rotated(self) -> bool: ...
    @property
    def layout(self) -> _Layout: ...
    @property
    def nbytes(self) -> int: ...
    def dequantize(
        self, dtype: _Dtype = "float32", *, out: Any = None, context: MFAContext | None = None
    ) -> Any: ...
    def __getitem__(self, index: _Index | tuple[_Index, ...], /) -> QuantizedTensor: ...
    def repeat(self, repeats: SupportsIndex | Sequence[int], axis: int) -> QuantizedTensor: ...
    def __array__(self, *_arguments: Any, **_keywords: Any) -> npt.NDArray[Any]: ...

@overload
def flash_attention_forward(
    ctx: MFAContext,
    q: _T,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = "bottom_right",
    return_logsumexp: Literal[False] = False,
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> _T: ...
@overload
def flash_attention_forward(
    ctx: MFAContext,
    q: _T,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = "bottom_right",
    return_logsumexp: Literal[True],
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> tuple[_T, _T]: ...
@overload
def attention(
    q: _T,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: Literal[False] = False,
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> _T: ...
@overload
def attention(
    q: _T,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: Literal[True],
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> tuple[_T, _T]: ...
@overload
def quantized_attention(
    q: _T,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: Literal[False] = False,
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> _T: ...
@overload
def quantized_attention(
    q: _T,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: Literal[True],
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> tuple[_T, _T]: ...
def explain(
    q: Any,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    backward: bool = False,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: bool = False,
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> str: ...
def workspace_size(
    q: Any,
    k: Any,
    v: Any,
    context: MFAContext | None = None,
    *,
    backward: bool = False,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = None,
    return_logsumexp: bool = False,
    out: Any = None,
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> int: ...
def flash_attention_backward(
    ctx: MFAContext,
    grad_out: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    need: tuple[bool, bool, bool] = (True, True, True),
    clip: bool = False,
    grad_mask: bool = False,
    grad_sinks: bool = False,
    grad_lse: Any = None,
    d_values: Any = None,
    causal: bool = False,
    softmax_scale: float | None = None,
    attn_mask: Any = None,
    window: _Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    seqlens_k: Any = None,
    alignment: _Alignment | None = "bottom_right",
    layout: _Layout = "BHND",
    compute: _Compute = "exact",
    precision: _PerOperand[_Precision | None] = None,
    granularity: _PerOperand[_Granularity] = "tensor",
    block_rows: _PerOperand[int] = 64,
    group: _PerOperand[Literal[32, 64] | None] = None,
    symmetric: _PerOperand[bool] = True,
    scale_dtype: _PerOperand[_ScaleDtype] = "float32",
    zero_point_dtype: _PerOperand[_ZeroPointDtype] = "int8",
    smooth: _PerOperand[bool] = False,
    rotate: _PerOperand[bool] = False,
) -> tuple[Any, ...]: ...
def _options() -> dict[str, list[list[str]]]: ...
def _check_options(function: str, options: dict[str, Any]) -> dict[str, Any]: ...
def _sdpa(
    query: Any, key: Any, value: Any, context: MFAContext | None = None, **options: Any
) -> Any: ...
def merge(
    outs: Iterable[_T],
    logsumexps: Iterable[_T],
    context: MFAContext | None = None,
    *,
    layout: _Layout = "BHND",
    out: Any = None,
) -> tuple[_T, _T]: ...
def merge_backward(
    grad_out: Any,
    outs: Iterable[_T],
    logsumexps: Iterable[_T],
    grad_lse: Any = None,
    context: MFAContext | None = None,
    *,
    layout: _Layout = "BHND",
) -> tuple[tuple[_T, ...], tuple[_T, ...]]: ...
def quantize(
    x: Any,
    precision: _Precision = "int8",
    granularity: _Granularity = "tensor",
    *,
    block_rows: int = 64,
    group: Literal[32, 64] | None = None,
    symmetric: bool = True,
    scale_dtype: _ScaleDtype = "float32",
    zero_point_dtype: _ZeroPointDtype = "int8",
    smooth: bool = False,
    mean: Any = None,
    scale: Any = None,
    zero_point: Any = None,
    rotate: bool = False,
    layout: _Layout = "BHND",
    measure_error: bool = False,
    out: QuantizedTensor | None = None,
    context: MFAContext | None = None,
) -> QuantizedTensor: ...
def devices() -> list[Device]: ...
def get_version() -> Version: ...
def is_metal_available() -> bool: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def _after_fork() -> None: ...
def _operand(
    x: Any, layout: _Layout = "BHND", context: MFAContext | None = None
) -> tuple[int, list[int], list[int]]: ...
