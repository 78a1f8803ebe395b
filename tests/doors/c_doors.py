"""The C contract: the general calls, and the fixed signatures."""

from __future__ import annotations

import ctypes
from typing import Any

import contract
import numpy as np
from case import DTYPES, Case
from contract import Library, Memory
from description import Stored
from doors import Door
from reference.precision import INT4, NAMES, pack_int4


def as_stored(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Another dtype, with the strides of 0 that there were."""
    once = x[tuple(slice(0, 1) if s == 0 else slice(None) for s in x.strides)]
    return np.broadcast_to(once.astype(dtype), x.shape)


def pairs(n: np.ndarray) -> np.ndarray:
    """INT4 elements, two to a byte."""
    return pack_int4(n).reshape(*n.shape[:-1], n.shape[-1] // 2)


CODES = {**NAMES, "fp64": 64}


class General(Door):
    name = "mfa_forward"

    def __init__(self) -> None:
        path = contract.library_path()
        self.library = None if path is None else Library(path)

    def missing(self) -> str | None:
        return None if self.library else "no driver library: cargo build -p mfa-cpu"

    def cannot(self, _case: Case) -> str | None:
        return None

    # Descriptors.

    def _stored(self, precision: str) -> str:
        """How the door stores floats of a precision."""
        return "fp64" if self.double and precision != "bool" else precision

    def _float(self, memory: Memory, x: np.ndarray, precision: str) -> contract.Tensor:
        stored = self._stored(precision)
        cast = x if stored == precision else as_stored(x, np.float64)
        return memory.tensor(cast, CODES[stored])

    def _operand(self, memory: Memory, case: Case, name: str) -> contract.Tensor:
        stored = case.call.operands[name]
        code = NAMES[stored.precision]
        if not stored.integer:
            return self._float(memory, case.floats[name], stored.precision)
        tensor = case.quantized[name]
        data = pairs(tensor.data) if code == INT4 else np.ascontiguousarray(tensor.data)
        return memory.tensor(data, code, self._quantization(memory, case, name, stored))

    def _quantization(
        self, memory: Memory, case: Case, name: str, stored: Stored
    ) -> contract.Quantization:
        tensor = case.quantized[name]
        result = contract.Quantization(
            granularity=tensor.scheme.granularity,
            block_rows=tensor.scheme.block_rows,
            group_size=tensor.scheme.group_size,
            rotated=int(stored.rotate),
        )
        if stored.granularity == "tensor" and not stored.scale16:
            result.scale = float(tensor.scale.item())
            result.zero_point = int(tensor.zero_point.item())
        else:
            kind = "fp16" if stored.scale16 else "fp32"
            scale = np.ascontiguousarray(tensor.scale.astype(DTYPES[kind]))
            result.scale_buffer = memory.buffer(scale)[0]
            result.scale_precision = NAMES[kind]
            if not stored.symmetric:
                zero = np.ascontiguousarray(tensor.zero_point.astype(np.int8))
                result.zero_point_buffer, result.zero_point_bytes = memory.buffer(zero)[0], 1
        if tensor.mean is not None:
            mean = np.ascontiguousarray(tensor.mean.astype(np.float32))
            result.mean_buffer = memory.buffer(mean)[0]
        return result

    def _options(self, memory: Memory, case: Case) -> contract.Options:
        call, given = case.call, case.options
        result = contract.Options(softcap=call.softcap, alignment=given.alignment)
        if call.scale is not None:
            result.flags |= contract.SCALE
            result.softmax_scale = call.scale
        if call.causal:
            result.flags |= contract.CAUSAL
        if call.window is not None:
            result.flags |= contract.WINDOW
            result.window_left, result.window_right = call.window
        if case.mask is not None and call.mask is not None:
            result.mask = self._float(memory, case.mask, call.mask.precision)
        if given.alibi_slopes is not None:
            slopes = given.alibi_slopes.astype(np.float32)[:, :, None, None]
            result.alibi_slopes = self._float(memory, slopes, "fp32")
        if given.sinks is not None:
            sinks = given.sinks.astype(np.float32)[None, :, None, None]
            result.sinks = self._float(memory, sinks, "fp32")
        if call.lengths is not None:
            result.sequence_count = len(call.lengths)
            result.cu_seqlens_q, result.cu_seqlens_k = (memory.buffer(x)[0] for x in case.ends)
        if call.key_lengths is not None:
            result.seqlens_k = memory.buffer(np.array(call.key_lengths, np.int32))[0]
        return result

    def _results(self, case: Case, output: str) -> tuple[np.ndarray, np.ndarray]:
        call = case.call
        out = np.zeros((case.batch, call.heads, case.rows, call.dv), DTYPES[output])
        line = (case.batch, call.heads, case.rows, 1)
        return out, np.zeros(line, DTYPES[self._stored("fp32")])

    def descriptor(
        self, memory: Memory, case: Case, out: np.ndarray, logsumexp: np.ndarray
    ) -> contract.Forward:
        options = self._options(memory, case)
        memory.kept.append(options)
        return contract.Forward(
            query=self._operand(memory, case, "q"),
            key=self._operand(memory, case, "k"),
            value=self._operand(memory, case, "v"),
            output=memory.tensor(out, CODES[self.output(case)]),
            logsumexp=memory.tensor(logsumexp, CODES[self._stored("fp32")]),
            options=ctypes.pointer(options),
        )

    def run(self, desc: contract.Forward) -> None:
        assert self.library is not None
        self.library.call("mfa_forward", self.library.context, ctypes.byref(desc))

    def forward(self, case: Case) -> dict[str, Any]:
        assert self.library is not None
        out, logsumexp = self._results(case, self.output(case))
        with Memory(self.library) as memory:
            self.run(self.descriptor(memory, case, out, logsumexp))
        return {"output": out, "logsumexp": logsumexp}

    def backward(self, case: Case) -> dict[str, Any] | None:
        assert self.library is not None
        found = self.forward(case)
        call = case.call
        shapes = {
            "q": (case.batch, call.heads, case.rows, call.d),
            "k": (case.batch, call.kv_heads, case.keys, call.d),
            "v": (case.batch, call.kv_heads, case.keys, call.dv),
        }
        if call.mask is not None and call.mask.learnt:
            assert case.mask is not None
            shapes["mask"] = case.mask.shape
        if call.sinks:
            shapes["sinks"] = (1, call.heads, 1, 1)
        exact = self._stored("fp32")
        result = {name: np.zeros(shape, DTYPES[exact]) for name, shape in shapes.items()}
        with Memory(self.library) as memory:
            forward = self.descriptor(memory, case, found["output"], found["logsumexp"])
            given = case.grad_output.astype(DTYPES[self.output(case)])
            desc = contract.Backward(
                **{
                    name: getattr(forward, name)
                    for name in ("query", "key", "value", "output", "logsumexp", "options")
                },
                grad_output=memory.tensor(given, CODES[self.output(case)]),
            )
            fields = {"q": "query", "k": "key", "v": "value", "mask": "mask", "sinks": "sinks"}
            for name, x in result.items():
                setattr(desc, f"grad_{fields[name]}", memory.tensor(x, CODES[exact]))
            self.library.call("mfa_backward", self.library.context, ctypes.byref(desc))
        return result


class Double(General):
    """FP64: the reference inside the library."""

    name = "mfa_forward, FP64"
    double = True

    def cannot(self, case: Case) -> str | None:
        return "integers" if case.call.integer else None

    def output(self, _case: Case) -> str:
        return "fp64"

    def gradient(self, _case: Case, _name: str) -> str:
        return "fp64"


class Fixed(General):
    """mfa_attention_forward, or with integers the signatures for training."""

    name = "the fixed signatures"
    gives_output = False

    def cannot(self, case: Case) -> str | None:
        call = case.call
        plain = call.window is None and call.mask is None and call.slopes is None
        if not plain or call.sinks or call.softcap:
            return "options that have no argument"
        if call.lengths is not None or call.key_lengths is not None:
            return "lengths of sequences"
        if call.heads != call.kv_heads or call.d != call.dv:
            return "one number of heads and columns"
        if call.causal and call.alignment != "top_left":
            return "the diagonal is at the top left"
        for name, stored in call.operands.items():
            if stored.integer:
                wide = stored.smooth or stored.rotate or stored.scale16
                if wide or stored.granularity != "tensor":
                    return "one scale for a tensor"
            elif not (case.floats[name].flags.c_contiguous or self._transposed(case, name)):
                return "contiguous tensors"
        return None

    @staticmethod
    def _transposed(case: Case, name: str) -> bool:
        return case.floats[name].swapaxes(2, 3).flags.c_contiguous

    def output(self, _case: Case) -> str:
        return "fp32"

    def forward(self, case: Case) -> dict[str, Any]:
        assert self.library is not None
        with Memory(self.library) as memory:
            return self._forward(memory, case)[0]

    def _shared(self, case: Case) -> list[Any]:
        call = case.call
        return [case.batch, case.rows, case.keys, call.heads, call.d]

    def _scales(self, case: Case) -> list[list[Any]]:
        result = []
        for name in "qkv":
            tensor = case.quantized.get(name)
            if tensor is None:
                result.append([1.0, 0])
            else:
                result.append([float(tensor.scale.item()), int(tensor.zero_point.item())])
        return result

    def _forward(self, memory: Memory, case: Case) -> tuple[dict[str, Any], list[Any]]:
        assert self.library is not None
        call = case.call
        out, logsumexp = self._results(case, "fp32")
        tensors = [self._operand(memory, case, name) for name in "qkv"]
        buffers = [tensor.buffer for tensor in tensors]
        transposed = [
            name not in case.quantized
            and not case.floats[name].flags.c_contiguous
            and self._transposed(case, name)
            for name in "qkv"
        ]
        scale = call.scale if call.scale is not None else call.d**-0.5
        precisions = [tensor.precision for tensor in tensors]
        results = [memory.buffer(x)[0] for x in (out, logsumexp)]
        found: dict[str, Any] = {"output": out}
        before = [self.library.context, *buffers]
        if call.integer or call.grad:
            found["logsumexp"] = logsumexp
            quantized = [number for pair in self._scales(case) for number in pair]
            arguments = [*before, *results, *self._shared(case), scale, call.causal, *precisions]
            arguments += [*quantized, *transposed, False]
            self.library.call("mfa_attention_forward_quantized", *arguments)
        else:
            arguments = [*before, results[0], *self._shared(case), scale, call.causal, *precisions]
            self.library.call("mfa_attention_forward", *arguments, *transposed, False)
        return found, [*before, results[1]]

    def backward(self, case: Case) -> dict[str, Any] | None:
        assert self.library is not None
        if any(name not in case.quantized and self._transposed(case, name) for name in "qkv"):
            # Gradients are stored as their operands are.
            return None
        call = case.call
        queries = (case.batch, call.heads, case.rows, call.d)
        keys = (case.batch, call.heads, case.keys, call.d)
        result = {"q": np.zeros(queries, np.float32)}
        result |= {name: np.zeros(keys, np.float32) for name in "kv"}
        with Memory(self.library) as memory:
            _, handles = self._forward(memory, case)
            context, q, k, v, logsumexp = handles
            given = memory.buffer(np.ascontiguousarray(case.grad_output.astype(np.float32)))[0]
            d_values = memory.buffer(np.zeros(queries[:3], np.float32))[0]
            dq, dk, dv = (memory.buffer(x)[0] for x in result.values())
            shared, (of_q, of_k, of_v) = self._shared(case), self._scales(case)
            before = [context, q, k, v, given, logsumexp]
            self.library.call(
                "mfa_attention_backward_query_quantized", *before, dq, d_values, *shared, *of_q
            )
            self.library.call(
                "mfa_attention_backward_kv_quantized",
                *[*before, d_values, dk, dv],
                *[*shared, *of_q, *of_k, *of_v],
            )
        return result


def c_doors() -> list[Door]:
    return [General(), Double(), Fixed()]
