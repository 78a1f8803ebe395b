"""ONNX Runtime's attention operators on the CPU, each as a model of one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.engines._onnx_model import FLOAT, FLOAT16, INT8, INT32, UINT8, Value, model
from umfa.bench.reference import Operands

CONTRIB = "com.microsoft"
ELEMENTS = {
    np.dtype(np.float32): FLOAT,
    np.dtype(np.float16): FLOAT16,
    np.dtype(np.int8): INT8,
    np.dtype(np.uint8): UINT8,
    np.dtype(np.int32): INT32,
}


class OnnxRuntime:
    """MultiHeadAttention, or GroupQueryAttention on a cache for groups and for decoding."""

    version = ort.__version__

    def __init__(self, threads: int) -> None:
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3

    def formats(self, case: Case) -> Sequence[str]:
        if case.kind == TRAINING:
            return ()
        if case.decode:
            return ("fp32", "fp16", "int8_kv", "int4_kv")
        return ("fp32",)

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        if case.decode:
            if case.causal:
                raise Refused("its causal mask is aligned bottom-right")
            return self._cached(case, storage, given)
        if case.group > 1:
            if not case.causal or case.rows != case.keys or mask is not None:
                raise Refused("its grouped operator is causal")
            return self._grouped(case, given)
        return self._multi_head(case, given, mask)

    def _multi_head(self, case: Case, given: Operands, mask: Array | None) -> Prepared:
        arrays = {name: _rows_first(getattr(given, name)) for name in "qkv"}
        if mask is not None:
            # It knows no BOOL masks of rows and keys, and adds this one.
            bias = np.where(mask, np.float32(0), np.float32(-np.inf))[None, None]
            arrays |= {"": bias[:0], "-": bias[:0], "bias": bias}
        attributes = {"num_heads": case.heads, "unidirectional": int(case.causal)}
        return self._prepared(case, "MultiHeadAttention", arrays, attributes)

    def _grouped(self, case: Case, given: Operands) -> Prepared:
        arrays = {name: _rows_first(getattr(given, name)) for name in "qkv"}
        arrays |= {"": arrays["q"][:0], "-": arrays["q"][:0]}
        arrays |= _lengths(case)
        attributes = {"num_heads": case.heads, "kv_num_heads": case.kv_heads}
        present = np.empty(case.k_shape, np.float32), np.empty(case.v_shape, np.float32)
        return self._prepared(case, "GroupQueryAttention", arrays, attributes, present)

    def _cached(self, case: Case, storage: str, given: Operands) -> Prepared:
        """One step: the last row of K and V is new, those before it are in the cache."""
        if case.rows != 1:
            raise Refused("a step has one row")
        dtype = np.float16 if storage == "fp16" else np.float32
        arrays = {
            "q": _rows_first(given.q).astype(dtype),
            "k": _rows_first(given.k[:, :, -1:]).astype(dtype),
            "v": _rows_first(given.v[:, :, -1:]).astype(dtype),
        }
        attributes: dict[str, Any] = {"num_heads": case.heads, "kv_num_heads": case.kv_heads}
        cache: tuple[Any, ...] = (given.k.astype(dtype), given.v.astype(dtype))
        scales: dict[str, Any] = {}
        if storage in ("int8_kv", "int4_kv"):
            bits = 8 if storage == "int8_kv" else 4
            most = (1 << (bits - 1)) - 1
            kind = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
            attributes |= {**kind, "kv_cache_bit_width": bits}
            sizes = [np.float32(np.abs(x).max() / most) for x in (given.k, given.v)]
            cache = tuple(
                _packed(np.clip(np.rint(x / s), -most, most).astype(np.int8), bits)
                for x, s in zip((given.k, given.v), sizes)
            )
            left_out = {"-" * (i + 1): arrays["q"][:0] for i in range(5)}
            scales = {**left_out, "ks": sizes[0].reshape(1), "vs": sizes[1].reshape(1)}
        arrays |= {"past_k": cache[0], "past_v": cache[1]} | _lengths(case) | scales
        return self._prepared(case, "GroupQueryAttention", arrays, attributes, cache)

    def _prepared(
        self,
        case: Case,
        operator: str,
        arrays: dict[str, Array],
        attributes: dict[str, Any],
        present: tuple[Any, ...] = (),
    ) -> Prepared:
        """A session with everything bound: no copy in or out, and a cache that is used in place.

        Names that start with "-" or are empty stand for inputs that are left out.
        """
        width = case.heads * case.value_columns
        out = np.empty((case.batch, case.rows, width), arrays["q"].dtype)
        named = {name: x for name, x in arrays.items() if name.strip("-")}
        inputs = [
            Value(name, ELEMENTS[x.dtype], x.shape) if name in named else Value()
            for name, x in arrays.items()
        ]
        results = {"out": out, **dict(zip(("present_k", "present_v"), present))}
        outputs = [Value(name, ELEMENTS[x.dtype], x.shape) for name, x in results.items()]
        proto = model(operator, CONTRIB, 1, inputs, outputs, attributes)
        try:
            session = ort.InferenceSession(proto, self._options, ["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base
            raise Refused(str(error)) from None
        binding = session.io_binding()
        values = {id(x): ort.OrtValue.ortvalue_from_numpy(x) for x in named.values()}
        for name, x in named.items():
            binding.bind_ortvalue_input(name, values[id(x)])
        for name, x in results.items():
            value = values.get(id(x)) or ort.OrtValue.ortvalue_from_numpy(x)
            values[id(x)] = value
            binding.bind_ortvalue_output(name, value)

        def output() -> Array:
            found: Array = values[id(out)].numpy()
            heads: Array = found.reshape(
                case.batch, case.rows, case.heads, case.value_columns
            ).swapaxes(1, 2)
            return heads

        return Prepared(lambda: session.run_with_iobinding(binding), output)


def _rows_first(array: Array) -> Array:
    """(batch, heads, rows, columns) as (batch, rows, heads * columns)."""
    batch, heads, rows, columns = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, rows, heads * columns)


def _lengths(case: Case) -> dict[str, Array]:
    return {
        "seqlens_k": np.full(case.batch, case.keys - 1, np.int32),
        "total": np.full(1, case.keys, np.int32),
    }


def _packed(values: Array, bits: int) -> Array:
    if bits == 8:
        return values
    nibbles = (values + 8).astype(np.uint8)
    return np.ascontiguousarray(nibbles[..., ::2] | nibbles[..., 1::2] << 4)


def make(threads: int, _library: str | None) -> OnnxRuntime:
    """Sessions with this many threads."""
    return OnnxRuntime(threads)
