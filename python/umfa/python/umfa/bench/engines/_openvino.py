"""OpenVINO's ScaledDotProductAttention on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
from openvino.op.util import Variable, VariableInfo

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.reference import Operands

# The precision of its arithmetic, and of its cache.
FORMATS = {
    "fp32": ("f32", "f32"),
    "bf16": ("bf16", "bf16"),
    "fp16": ("f16", "f16"),
    "int8_kv": ("f32", "u8"),
}


class OpenVino:
    """Stateless models, or one with a state where decoding reads a cache."""

    version = ov.get_version().split("-")[0]

    def __init__(self, threads: int) -> None:
        self._core = ov.Core()
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def formats(self, case: Case) -> Sequence[str]:
        if case.kind == TRAINING:
            return ()
        able = {"f32", "u8"} | {
            {"BF16": "bf16", "FP16": "f16"}.get(name, "")
            for name in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        }
        names = [name for name, (compute, _) in FORMATS.items() if compute in able]
        # FP16 and caches are what decoding is about; elsewhere FP16 is slower than FP32.
        return [name for name in names if case.decode or name in ("fp32", "bf16")]

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        compute, cache = FORMATS[storage]
        settings = {**self._settings, "INFERENCE_PRECISION_HINT": compute}
        if case.decode and case.rows == 1 and not case.causal:
            return self._cached(case, given, {**settings, "KV_CACHE_PRECISION": cache})
        inputs = [op.parameter(x.shape, np.float32) for x in (given.q, given.k, given.v)]
        k, v = (_shared(x, case) for x in inputs[1:])
        arrays = [given.q, given.k, given.v]
        seen = []
        if mask is not None:
            inputs.append(op.parameter(mask.shape, np.bool_))
            arrays.append(mask)
            seen = [inputs[-1]]
        node = op.scaled_dot_product_attention(inputs[0], k, v, *seen, causal=case.causal)
        request = self._request(ov.Model([node], inputs), settings)
        for i, array in enumerate(arrays):
            request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
        return Prepared(request.infer, lambda: request.get_output_tensor(0).data)

    def _request(self, model: Any, settings: dict[str, Any]) -> Any:
        try:
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise Refused(str(error)) from None

    def _cached(self, case: Case, given: Operands, settings: dict[str, Any]) -> Prepared:
        """The rows but the last are the state; each run appends the last one, once more."""
        q, k, v = (
            op.parameter(ov.PartialShape([case.batch, heads, -1, columns]), np.float32)
            for heads, columns in (
                (case.heads, case.columns),
                (case.kv_heads, case.columns),
                (case.kv_heads, case.value_columns),
            )
        )
        beam = op.parameter(ov.PartialShape([case.batch]), np.int32)
        sinks, joined = [], []
        for name, x in (("k", k), ("v", v)):
            info = VariableInfo()
            info.data_shape = x.get_partial_shape()
            info.data_type = ov.Type.f32
            info.variable_id = name
            variable = Variable(info)
            columns = x.get_partial_shape()[3].get_length()
            empty = np.zeros((case.batch, case.kv_heads, 0, columns), np.float32)
            state = op.read_value(op.constant(empty), variable)
            past = op.gather(state, beam, op.constant(0))
            both = op.concat([past, x], 2)
            sinks.append(op.assign(both, variable))
            joined.append(_shared(both, case))
        node = op.scaled_dot_product_attention(q, *joined)
        model = ov.Model(results=[op.result(node)], sinks=sinks, parameters=[q, k, v, beam])
        request = self._request(model, settings)
        for state in request.query_state():
            cached = given.k if state.name == "k" else given.v
            state.state = ov.Tensor(np.ascontiguousarray(cached[:, :, :-1]))
        # Reordering beams keeps the batch as it is.
        order = np.arange(case.batch, dtype=np.int32)
        rows = [given.q, given.k[:, :, -1:], given.v[:, :, -1:], order]
        for i, array in enumerate(rows):
            request.set_input_tensor(i, ov.Tensor(np.ascontiguousarray(array)))
        request.infer()
        first = np.array(request.get_output_tensor(0).data)
        return Prepared(request.infer, lambda: first)


def _shared(node: Any, case: Case) -> Any:
    """Each head of K or V for all query heads of its group; the plugin does this without a copy."""
    if case.group == 1:
        return node
    columns = node.get_output_partial_shape(0)[3].get_length()
    shape = [case.batch, case.kv_heads, case.group, 1, columns]
    lone = op.unsqueeze(node, op.constant(2))
    wide = op.broadcast(lone, op.constant(shape), broadcast_spec="BIDIRECTIONAL")
    merged = [case.batch, case.heads, -1, columns]
    return op.reshape(wide, op.constant(merged), special_zero=False)


def make(threads: int, _library: str | None) -> OpenVino:
    """Models with this many threads."""
    return OpenVino(threads)
