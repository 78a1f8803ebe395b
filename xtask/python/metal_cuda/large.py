"""Calls at sizes that the device in software cannot reach, with every kind of storage and option.

A list of descriptions, from which come the recorder's JSON (no data), and on a GPU the data and
what is expected of the results.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field
from typing import Any

from . import storage as st
from .errorrule import Bound, bounds
from .formulas import Operands, Options, Precisions, Results, attention
from .storage import BOOL, FP32, Shape, Storage

Array = Any

_FLAG_SCALE, _FLAG_CAUSAL, _FLAG_WINDOW = 1, 2, 4
_BACKWARD_CLIP = 2


@dataclass(frozen=True)
class Call:
    """An attention call. With `gradients` forward runs first, and backward takes its L (and O)."""

    name: str
    query: Storage
    key: Storage
    value: Storage
    batches: int = 1
    heads: int = 1
    key_heads: int = 1
    rows: int = 1
    keys: int = 1
    columns: int = 64
    value_columns: int = 0
    output: int = FP32
    grad_output: int = FP32
    gradients: bool = False
    given_output: bool = False
    clips: bool = False
    causal: bool = False
    bottom_right: bool = False
    window: tuple[int, int] | None = None
    softcap: float = 0.0
    mask: int | None = None
    """BOOL or a precision of floats."""
    mask_shape: tuple[int, int, int, int] | None = None
    slopes: bool = False
    sinks: bool = False
    lengths: tuple[tuple[int, int], ...] = ()
    key_lengths: tuple[int, ...] = ()
    family: int = 9

    @property
    def operations(self) -> list[str]:
        return ["forward", "backward"] if self.gradients else ["forward"]

    @property
    def query_shape(self) -> Shape:
        return (self.batches, self.heads, self.rows, self.columns)

    @property
    def key_shape(self) -> Shape:
        return (self.batches, self.key_heads, self.keys, self.columns)

    @property
    def value_shape(self) -> Shape:
        return (self.batches, self.key_heads, self.keys, self.value_columns or self.columns)

    @property
    def output_shape(self) -> Shape:
        return (self.batches, self.heads, self.rows, self.value_columns or self.columns)

    @property
    def row_shape(self) -> Shape:
        return (self.batches, self.heads, self.rows, 1)

    @property
    def masks_of(self) -> tuple[int, int, int, int]:
        return self.mask_shape or (1, 1, self.rows, self.keys)

    def tensors(self, operation: str) -> dict[str, tuple[Storage, Shape]]:
        """Roles of the contract's descriptor, inputs first."""
        inputs = {
            "query": (self.query, self.query_shape),
            "key": (self.key, self.key_shape),
            "value": (self.value, self.value_shape),
        }
        if self.mask is not None:
            inputs["mask"] = (Storage(self.mask), self.masks_of)
        if self.slopes:
            inputs["alibi_slopes"] = (Storage(FP32), (1, 1, 1, self.heads))
        if self.sinks:
            inputs["sinks"] = (Storage(FP32), (1, 1, 1, self.heads))
        result = Storage(FP32)
        if operation == "forward":
            outputs = {
                "output": (Storage(self.output), self.output_shape),
                "logsumexp": (result, self.row_shape),
            }
            return {**inputs, **outputs}
        inputs |= {
            "grad_output": (Storage(self.grad_output), self.output_shape),
            "given_logsumexp": (result, self.row_shape),
        }
        if self.given_output:
            inputs["given_output"] = (Storage(self.output), self.output_shape)
        outputs = {
            "d_values": (result, self.row_shape),
            "grad_query": (result, self.query_shape),
            "grad_key": (result, self.key_shape),
            "grad_value": (result, self.value_shape),
        }
        if self.mask not in (None, BOOL):
            outputs["grad_mask"] = (result, self.masks_of)
        if self.sinks:
            outputs["grad_sinks"] = (result, (1, 1, 1, self.heads))
        return {**inputs, **outputs}


def is_result(role: str) -> bool:
    return role in ("output", "logsumexp", "d_values") or (
        role.startswith("grad_") and role != "grad_output"
    )


@dataclass
class Numbered:
    """The buffers of a call: (role, part) by number."""

    names: list[tuple[str, str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)

    def add(self, role: str, part: str, size: int, contents: bytes | None = None) -> int:
        self.names.append((role, part))
        self.sizes.append(size)
        if contents is not None:
            self.contents[len(self.names) - 1] = contents
        return len(self.names) - 1


def numbered(call: Call, operation: str) -> Numbered:
    buffers = Numbered()
    for role, (storage, shape) in call.tensors(operation).items():
        for part, size in storage.parts(shape).items():
            buffers.add(role, part, size)
    for role, lists in _lists(call).items():
        content = struct.pack(f"<{len(lists)}i", *lists)
        buffers.add(role, "data", len(content), content)
    return buffers


def _lists(call: Call) -> dict[str, list[int]]:
    lists: dict[str, list[int]] = {}
    if call.lengths:
        for role, index in (("cu_seqlens_q", 0), ("cu_seqlens_k", 1)):
            total = [0]
            for length in call.lengths:
                total.append(total[-1] + length[index])
            lists[role] = total
    if call.key_lengths:
        lists["seqlens_k"] = list(call.key_lengths)
    return lists


def recorder_call(call: Call, operation: str) -> dict[str, Any]:
    buffers = numbered(call, operation)
    at = {name: number for number, name in enumerate(buffers.names)}
    tensors = {}
    for role, (storage, shape) in call.tensors(operation).items():
        strides = [st.count(shape[axis + 1 :]) for axis in range(4)]
        if role == "mask":
            strides = [0 if size == 1 else stride for size, stride in zip(shape, strides)]
        shape_of_call = list(shape)
        if role in ("alibi_slopes", "sinks", "grad_sinks"):
            # [1, heads, 1, 1]
            shape_of_call, strides = [1, shape[3], 1, 1], [shape[3], 1, 1, 1]
        tensors[role] = {
            "buffer": at[role, "data"],
            "byteOffset": 0,
            "precision": storage.precision,
            "shape": shape_of_call,
            "strides": strides,
        }
        numbers = {part: at[role, part] for part in storage.parts(shape)}
        of_it = st.quantization(storage, numbers)
        if of_it is not None:
            tensors[role]["quantization"] = of_it
    left, right = call.window or (-1, -1)
    entries: list[dict[str, Any]] = []
    for number, size in enumerate(buffers.sizes):
        content = buffers.contents.get(number)
        entries.append(
            {"size": size} | ({"contents": base64.b64encode(content).decode()} if content else {})
        )
    return {
        "name": f"{call.name}/{operation}",
        "operation": operation,
        "family": call.family,
        "flags": _BACKWARD_CLIP if call.clips and operation == "backward" else 0,
        "buffers": entries,
        "tensors": tensors,
        "options": {
            "flags": (_FLAG_CAUSAL if call.causal else 0) | (_FLAG_WINDOW if call.window else 0),
            "softmaxScale": 0,
            "softcap": call.softcap,
            "alignment": int(call.bottom_right),
            "windowLeft": left,
            "windowRight": right,
            "sequenceCount": len(call.lengths),
            "cuSeqlensQ": at.get(("cu_seqlens_q", "data")),
            "cuSeqlensQOffset": 0,
            "cuSeqlensK": at.get(("cu_seqlens_k", "data")),
            "cuSeqlensKOffset": 0,
            "seqlensK": at.get(("seqlens_k", "data")),
        },
    }


# MARK: Data and what is expected


@dataclass
class Problem:
    call: Call
    memory: dict[tuple[str, str], Array]
    """Bytes of the inputs, by role and part."""
    operands: Operands
    """What backward is given is in it if there is one."""
    exact: Results

    def bounds(self, xp: Any) -> dict[str, Bound]:
        """What the errors of the results may be."""
        return bounds(
            xp,
            self.operands,
            self.expected(xp),
            lambda found, role: clipped(self, role, pick(found, role), xp),
        )

    def expected(self, xp: Any) -> dict[str, Array]:
        roles = [
            role for operation in self.call.operations for role in self.call.tensors(operation)
        ]
        return {
            role: clipped(self, role, pick(self.exact, role), xp)
            for role in dict.fromkeys(roles)
            if is_result(role)
        }


def pick(results: Results, role: str) -> Array:
    if role in ("output", "logsumexp"):
        return getattr(results, role)
    return results.gradients[role.removeprefix("grad_")]


def clipped(problem: Problem, role: str, gradient: Array, xp: Any) -> Array:
    """Without gradients of elements at an end of the quantized range, where that was asked for."""
    of = problem.operands
    made = {"grad_query": of.query, "grad_key": of.key, "grad_value": of.value}.get(role)
    if not problem.call.clips or made is None or made.inside is None:
        return gradient
    if not problem.call.tensors("forward")[role.removeprefix("grad_")][0].rotated:
        return xp.where(made.inside, gradient, 0)
    return st.hadamard(xp, xp.where(made.inside, st.hadamard(xp, gradient), 0))


def problem(xp: Any, call: Call, seed: int = 1) -> Problem:
    rng = xp.random.default_rng(seed)
    made = {
        role: st.make(xp, *call.tensors("forward")[role], rng) for role in ("query", "key", "value")
    }
    memory = {(role, part): x for role, one in made.items() for part, x in one.parts.items()}
    options = Options(
        scale=float(call.columns) ** -0.5,
        causal=call.causal,
        bottom_right=call.bottom_right,
        window=call.window,
        softcap=call.softcap,
        lengths=list(call.lengths) or None,
        key_lengths=list(call.key_lengths) or None,
    )
    if call.mask is not None:
        hidden = rng.random(call.masks_of, dtype=xp.float32) < 0.25
        if call.mask == BOOL:
            options.mask = ~hidden
            memory["mask", "data"] = st.stored_bytes(xp, options.mask, BOOL)
        else:
            added = st.rounded(
                xp,
                rng.standard_normal(call.masks_of, dtype=xp.float32).astype(xp.float64),
                call.mask,
            )
            options.mask = xp.where(hidden, -xp.inf, added)
            memory["mask", "data"] = st.stored_bytes(xp, options.mask, call.mask)
    if call.slopes:
        slopes = rng.random((1, call.heads), dtype=xp.float32) * xp.float32(0.01)
        options.slopes = slopes.astype(xp.float64)
        memory["alibi_slopes", "data"] = st.stored_bytes(xp, slopes, FP32)
    if call.sinks:
        sinks = rng.standard_normal((call.heads,), dtype=xp.float32)
        options.sinks = sinks.astype(xp.float64)
        memory["sinks", "data"] = st.stored_bytes(xp, sinks, FP32)
    q, k, v = made["query"], made["key"], made["value"]
    precisions = Precisions(
        call.query.precision,
        call.key.precision,
        call.value.precision,
        call.output,
        call.grad_output,
    )
    of = Operands(q, k, v, options, precisions)
    exact = attention(xp, of)
    if call.gradients:
        one = st.make(xp, Storage(call.grad_output), call.output_shape, rng)
        of.grad_output, memory["grad_output", "data"] = one.real, one.parts["data"]
        # Backward is given L and O as they are stored.
        of.logsumexp = st.rounded(xp, exact.logsumexp, FP32)
        memory["given_logsumexp", "data"] = st.stored_bytes(xp, of.logsumexp, FP32)
        if call.given_output:
            of.output = st.rounded(xp, exact.output, call.output)
            memory["given_output", "data"] = st.stored_bytes(xp, of.output, call.output)
        exact = attention(xp, of)
    return Problem(call, memory, of, exact)


def recorder_calls(of: list[Call]) -> list[dict[str, Any]]:
    return [recorder_call(call, operation) for call in of for operation in call.operations]
