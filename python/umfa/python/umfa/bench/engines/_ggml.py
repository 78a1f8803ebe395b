"""ggml's flash_attn_ext on the CPU, through a shared library that has ggml and its CPU backend."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.reference import Operands

# enum ggml_type, by format of K and V; queries are FP32.
TYPES = {"fp32": 0, "fp16": 1, "q8_0": 8, "q4_0": 2}
F32, F16 = 0, 1


class InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_4d": (c_void_p, [c_void_p, c_int, *[c_int64] * 4]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_quantize_chunk": (
        c_size_t,
        [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p],
    ),
    "ggml_flash_attn_ext": (c_void_p, [*[c_void_p] * 5, *[c_float] * 3]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_version": (c_char_p, []),
}


class Ggml:
    """One graph with one node; threads are ggml's own, started in each call."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._call: dict[str, Any] = {}
        for name, (result, arguments) in SIGNATURES.items():
            function = library[name]
            function.restype, function.argtypes = result, arguments
            self._call[name] = function
        self._backend = self._call["ggml_backend_cpu_init"]()
        self._call["ggml_backend_cpu_set_n_threads"](self._backend, threads)
        self.version = self._call["ggml_version"]().decode()

    def formats(self, case: Case) -> Sequence[str]:
        return () if case.kind == TRAINING else tuple(TYPES)

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        elements = sum(x.size for x in (given.q, given.k, given.v)) + int(np.prod(case.out_shape))
        # FP32 each, an FP16 mask, and room for what describes tensors and the graph.
        size = 4 * elements + 2 * case.rows * case.keys + (16 << 20)
        context = Context(self._call, size)
        call = self._call
        q = context.tensor(F32, given.q)
        k, v = (context.tensor(TYPES[storage], x) for x in (given.k, given.v))
        seen = mask
        if case.causal:
            seen = np.tri(case.rows, case.keys, dtype=bool)
        bias = None
        if seen is not None:
            added = np.where(seen, np.float32(0), np.float32(-np.inf))
            bias = context.tensor(F16, added[None, None])
        scale = case.columns**-0.5
        node = call["ggml_flash_attn_ext"](context.handle, q, k, v, bias, scale, 0.0, 0.0)
        graph = call["ggml_new_graph"](context.handle)
        call["ggml_build_forward_expand"](graph, node)
        shape = (case.batch, case.rows, case.heads, case.value_columns)
        data = ctypes.cast(call["ggml_get_data"](node), ctypes.POINTER(c_float))
        out = np.ctypeslib.as_array(data, shape).swapaxes(1, 2)

        def run() -> None:
            # The context is held here: its memory is that of all tensors.
            status = call["ggml_backend_graph_compute"](self._backend, context and graph)
            if status != 0:
                raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

        return Prepared(run, lambda: out)


class Context:
    """Tensors and their memory, freed together."""

    def __init__(self, call: dict[str, Any], size: int) -> None:
        self._call = call
        self.handle = call["ggml_init"](InitParams(size, None, False))
        if not self.handle:
            raise Refused(f"ggml_init could not get {size} bytes")

    def tensor(self, kind: int, array: Array) -> Any:
        """(batch, heads, rows, columns) in a type of ggml."""
        batch, heads, rows, columns = array.shape
        sizes = (columns, rows, heads, batch)
        tensor = self._call["ggml_new_tensor_4d"](self.handle, kind, *sizes)
        data = self._call["ggml_get_data"](tensor)
        dense = np.ascontiguousarray(array, np.float16 if kind == F16 else np.float32)
        if kind in (F32, F16):
            ctypes.memmove(data, dense.ctypes.data, dense.nbytes)
        else:
            count, quantize = batch * heads * rows, self._call["ggml_quantize_chunk"]
            quantize(kind, dense.ctypes.data, data, 0, count, columns, None)
        return tensor

    def __del__(self) -> None:
        if self.handle:
            self._call["ggml_free"](self.handle)


def make(threads: int, library: str | None) -> Ggml:
    """The library in a file, with this many threads."""
    if library is None:
        raise ValueError("ggml is given by its library: --peer ggml=/path/to/libggml.so")
    try:
        return Ggml(ctypes.CDLL(library), threads)
    except (OSError, AttributeError) as error:
        raise ValueError(f"not a library of ggml with its CPU backend: {error}") from None
