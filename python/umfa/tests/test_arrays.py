"""Arrays of every kind, used in place."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa
from umfa._native import _operand

Draw = Callable[..., npt.NDArray[np.float32]]


class Exporter:
    """An array of a library that is known for nothing but DLPack."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __dlpack__(self, **options: Any) -> Any:
        if self.of is None:
            raise BufferError("nothing to export")
        return self.of.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class OldExporter(Exporter):
    """The same, from before DLPack 1.0."""

    def __dlpack__(self) -> Any:  # type: ignore[override]
        return self.of.__dlpack__()


class Interface:
    """An object with nothing but NumPy's array interface."""

    def __init__(self, of: npt.NDArray[Any]) -> None:
        self.__array_interface__ = of.__array_interface__
        self.of = of


def strided_views(base: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """Views of a [2, 3, 40, 16] array, none of them in C order."""
    return {
        "transposed": base.transpose(1, 0, 2, 3),
        "every other row": base[:, :, ::2],
        "every third column": base[..., ::3],
        "inner block": base[1:, 1:, 3:30, 2:9],
        "columns first": base.swapaxes(2, 3),
        "broadcast": np.broadcast_to(base[:, :1, :1], (2, 5, 7, 16)),
    }


@pytest.mark.parametrize("name", strided_views(np.zeros((2, 3, 40, 16), np.float32)))
def test_numpy_is_used_in_place(normal: Draw, name: str) -> None:
    view = strided_views(normal(2, 3, 40, 16))[name]
    address, shape, strides = _operand(view)
    assert address == view.ctypes.data
    assert tuple(shape) == view.shape
    given = [s // 4 for size, s in zip(view.shape, view.strides) if size > 1]
    assert [s for size, s in zip(shape, strides) if size > 1] == given
    expected = umfa.attention(*(np.ascontiguousarray(view),) * 3)
    np.testing.assert_array_equal(umfa.attention(view, view, view), expected)


def test_layouts_are_strides(normal: Draw) -> None:
    x = normal(2, 5, 3, 8)
    address, shape, strides = _operand(x, "BNHD")
    assert address == x.ctypes.data
    assert tuple(shape) == (2, 3, 5, 8)
    assert tuple(strides) == (120, 8, 24, 1)


def test_torch_is_used_in_place(torch: Any) -> None:
    base = torch.randn(2, 3, 40, 16)
    for view in (base, base[:, :, ::2], base.transpose(2, 3), base[1:, 1:, 3:30, 2:9]):
        address, shape, strides = _operand(view)
        assert address == view.data_ptr()
        assert tuple(shape) == tuple(view.shape)
        kept = [i for i, size in enumerate(view.shape) if size > 1]
        assert [strides[i] for i in kept] == [view.stride(i) for i in kept]
        expected = umfa.attention(*(view.contiguous(),) * 3)
        assert torch.equal(umfa.attention(view, view, view), expected)


@pytest.mark.parametrize("exporter", [Exporter, OldExporter, Interface, memoryview])
def test_exporters_are_used_in_place(normal: Draw, exporter: Any) -> None:
    view = normal(4, 20, 16)[:, ::2]
    exported = exporter(view)
    address, shape, strides = _operand(exported)
    assert address == view.ctypes.data
    assert tuple(shape) == (4, 1, 10, 16)
    assert (strides[0], strides[2], strides[3]) == (320, 32, 1)
    out = umfa.attention(exported, exported, exported)
    np.testing.assert_array_equal(out, umfa.attention(view, view, view))


def test_dlpack_of_torch_in_bfloat16(torch: Any, ml_dtypes: Any) -> None:
    x = torch.randn(2, 9, 16).bfloat16()
    assert _operand(Exporter(x))[0] == x.data_ptr()
    out: Any = umfa.attention(Exporter(x), x, x)
    assert out.dtype == ml_dtypes.bfloat16
    expected = umfa.attention(x, x, x)
    np.testing.assert_array_equal(out.astype(np.float32), expected.float().numpy())


def test_dlpack_memory_is_released(normal: Draw) -> None:
    import gc
    import weakref

    view = normal(1, 1, 8, 16)
    alive = weakref.ref(view)
    umfa.attention(Exporter(view), view, view)
    del view
    gc.collect()
    assert alive() is None


def test_the_buffer_protocol_of_the_standard_library() -> None:
    memory = memoryview(array.array("f", range(64))).cast("B").cast("f", (4, 16))
    x = np.arange(64, dtype=np.float32).reshape(4, 16)
    np.testing.assert_array_equal(umfa.attention(memory, x, x), umfa.attention(x, x, x))


class Namespace:
    """A library with an array-API namespace: arrays of it come back as arrays of it."""

    class Array(Exporter):
        def __array_namespace__(self, **_: Any) -> type[Namespace]:
            return Namespace

    @staticmethod
    def from_dlpack(x: Any) -> Namespace.Array:
        x.__dlpack__()
        return Namespace.Array(x)

    @staticmethod
    def asarray(x: Any) -> Namespace.Array:
        return Namespace.Array(x)


def test_results_are_of_the_querys_library(normal: Draw, torch: Any, ml_dtypes: Any) -> None:
    x = normal(1, 2, 4, 8)
    assert type(umfa.attention(x, x, x)) is np.ndarray
    tensor = torch.from_numpy(x)
    assert type(umfa.attention(tensor, x, x)) is torch.Tensor
    assert type(umfa.attention(x, tensor, tensor)) is np.ndarray
    foreign = Namespace.Array(x)
    out, logsumexp = umfa.attention(foreign, x, x, return_logsumexp=True)
    assert type(out) is type(logsumexp) is Namespace.Array
    assert type(umfa.SDPA()(foreign, foreign, foreign)) is Namespace.Array
    brain = Namespace.Array(tensor.bfloat16())
    assert umfa.attention(brain, brain, brain).of.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes_of_numpy(normal: Draw, ml_dtypes: Any, dtype: str) -> None:
    x = normal(2, 2, 12, 16).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    out, logsumexp = umfa.attention(x, x, x, return_logsumexp=True)
    assert out.dtype == x.dtype
    assert logsumexp.dtype == np.float32
    wide = umfa.attention(*(x.astype(np.float32),) * 3)
    error = {"float32": 0, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(out.astype(np.float32), wide, rtol=error, atol=error)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes_of_torch(torch: Any, dtype: str) -> None:
    x = torch.randn(2, 2, 12, 16).to(getattr(torch, dtype))
    out, logsumexp = umfa.attention(x, x, x, return_logsumexp=True)
    assert out.dtype == x.dtype
    assert logsumexp.dtype == torch.float32
    assert umfa.quantize(x).data.dtype == torch.int8
    assert umfa.quantize(x, "int4").data.dtype == torch.uint8


def test_mixed_dtypes(normal: Draw, torch: Any) -> None:
    q, k, v = normal(1, 2, 5, 16), normal(1, 2, 9, 16), normal(1, 2, 9, 16)
    expected = umfa.attention(q, k.astype(np.float16), v.astype(np.float16).astype(np.float32))
    found = umfa.attention(q, k.astype(np.float16), torch.from_numpy(v).half())
    np.testing.assert_array_equal(found, expected)


def test_torch_is_not_imported() -> None:
    import subprocess
    import sys

    code = "import numpy as np, sys, umfa; x = np.ones((2, 4, 8), np.float32); umfa.SDPA()"
    code += "(x, x, x); umfa.attention(memoryview(x), x, x); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_broadcast_operands_of_size_one_have_any_stride(normal: Draw) -> None:
    x = normal(3, 8)
    odd = np.lib.stride_tricks.as_strided(x, (1, 1, 3, 8), (-4, 12, 32, 4))
    np.testing.assert_array_equal(umfa.attention(odd, odd, odd)[0, 0], umfa.attention(x, x, x))


class _Tensor(ctypes.Structure):
    """DLTensor and the rest of DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Liar:
    """Exports what it is told to."""

    def __init__(self, ndim: int, shape: tuple[int, ...] | None) -> None:
        self.memory = np.zeros(64, np.float32)
        self.tensor = _Tensor(self.memory.ctypes.data, (1, 0), ndim, 2, 32, 1)
        if shape is not None:
            self.sizes = (ctypes.c_int64 * len(shape))(*shape)
            self.tensor.shape = ctypes.cast(self.sizes, ctypes.POINTER(ctypes.c_int64))

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self) -> Any:
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p,) * 3
        self.name = ctypes.create_string_buffer(b"dltensor")
        return make(ctypes.addressof(self.tensor), ctypes.addressof(self.name), None)


@pytest.mark.parametrize(
    ("ndim", "shape", "found"),
    [
        (4, None, "rank 4 without a shape"),
        (1, None, "rank 1 without a shape"),
        (-1, (2, 4), "rank -1"),
        (1 << 30, None, "rank 1073741824"),
        (2, (-2, 4), r"shape \[-2, 4\]"),
        (3, (1, 2, -1), r"shape \[1, 2, -1\]"),
    ],
)
def test_dlpack_that_lies(ndim: int, shape: Any, found: str) -> None:
    x = np.zeros((2, 4), np.float32)
    for arguments in ((Liar(ndim, shape), x, x), (x, x, Liar(ndim, shape))):
        with pytest.raises(umfa.InvalidDimensions, match=f"DLPack {found}.*, expected"):
            umfa.attention(*arguments)
    honest: Any = Liar(2, (2, 4))
    assert umfa.attention(honest, x, x).shape == (2, 4)
