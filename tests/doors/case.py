"""A description as arrays, and what must come out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from description import Call, Stored
from numpy.lib.stride_tricks import as_strided
from packing import Places, packing
from reference.backward import Incoming, backward
from reference.errorrule import Bound, Norms, forward_bounds, gradient_bounds, norms, violation
from reference.forward import forward
from reference.precision import NAMES, UNIT, rounded
from reference.problem import BOTTOM_RIGHT, TOP_LEFT, Operand, Options, Problem
from reference.quantize import (
    Quantized,
    Scheme,
    dequantize,
    dequantize_deviation,
    inside,
    quantize,
    row_scale,
)
from reference.visibility import bias

GRANULARITIES = ("tensor", "row", "block", "channel")
DTYPES: dict[str, Any] = {
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "bool": np.bool_,
}
_LOWEST = {name: float(ml_dtypes.finfo(DTYPES[name]).min) for name in ("fp32", "fp16", "bf16")}


def scheme_of(stored: Stored) -> Scheme:
    blocked = stored.granularity in ("block", "channel")
    return Scheme(
        precision=NAMES[stored.precision],
        granularity=GRANULARITIES.index(stored.granularity),
        block_rows=stored.block_rows if blocked else 0,
        group_size=(stored.group or 0) if stored.granularity == "row" else 0,
        asymmetric=not stored.symmetric,
        smooth=stored.smooth,
        rotated=stored.rotate,
        scale_precision=NAMES["fp16" if stored.scale16 else "fp32"],
    )


def repeated(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """np.broadcast_to, but not read-only: PyTorch would warn."""
    return as_strided(x, shape, np.broadcast_to(x, shape).strides)


def in_memory(x: np.ndarray, memory: str) -> np.ndarray:
    """The same [batch, heads, rows, columns], elsewhere in memory."""
    if memory == "bnhd":
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    if memory == "transposed":
        return np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3)
    if memory == "padded":
        room = np.empty((*x.shape[:2], x.shape[2] + 1, x.shape[3] + 2), x.dtype)
        room[...] = 1 if x.dtype == np.bool_ else np.nan
        room[:, :, : x.shape[2], : x.shape[3]] = x
        return room[:, :, : x.shape[2], : x.shape[3]]
    if memory == "over batch":
        return repeated(np.ascontiguousarray(x[:1]), x.shape) if x.shape[0] else x
    if memory == "over heads":
        return repeated(np.ascontiguousarray(x[:, :1]), x.shape) if x.shape[1] else x
    assert memory == "packed", memory
    return np.ascontiguousarray(x)


@dataclass(frozen=True)
class Expected:
    values: np.ndarray
    bound: Bound
    places: Places | None = None
    """Which rows of a result are expected here."""
    shape: tuple[int, ...] = ()
    """With `places`: the result's own."""
    nothing: np.ndarray | float = 0.0
    """What the other rows are: a number, or [heads, columns]."""

    def problem(self, found: Any, stored: str = "fp32") -> str | None:
        """Why a result is wrong, or None. `stored` is what a gradient was rounded to; "fp64" says
        that it was computed as the reference is."""
        bound = self.bound
        if stored == "fp64":
            size = norms(np.nan_to_num(self.values, posinf=0, neginf=0), self.values).max
            nothing = Norms(0.0, 0.0)
            near = Norms(1e-11 * (1 + size), 1e-11 * (1 + size))
            bound = Bound(1.0, nothing, nothing, near)
        elif stored != "fp32":
            size = norms(np.nan_to_num(self.values, posinf=0, neginf=0), self.values)
            unit = UNIT[NAMES[stored]]
            kept = Norms(bound.kept.max + unit * size.max, bound.kept.rms + unit * size.rms)
            bound = replace(bound, kept=kept)
        found = np.asarray(found).astype(np.float64)
        if self.places is not None:
            if found.size != np.prod(self.shape):
                return f"shape {found.shape}, expected {self.shape}"
            found = found.reshape(self.shape)
            rest = self.places.others(found)
            # A sink alone goes through a logarithm: two units in the last place.
            wrong = ~np.isclose(rest, self.nothing, rtol=2.0**-22, atol=0.0)
            if wrong.any():
                return f"{rest[wrong][0]} in a row beyond the sequences"
            found = self.places.take(found)
        if found.size != self.values.size:
            return f"shape {found.shape}, expected {self.values.shape}"
        return violation(found.reshape(self.values.shape), self.values, bound)


class Case:
    """What a description says, in memory: q, k and v as [batch, heads, rows, columns]."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.rng = np.random.default_rng(call.seed)
        self.batch = prod(call.batch)
        rows, keys = call.rows, call.keys
        if call.lengths is not None:
            rows, keys = (sum(pair[i] for pair in call.lengths) + call.spare[i] for i in (0, 1))
        self.rows, self.keys = rows, keys
        self.options = self._options()
        self.packing = packing(call, self.batch)
        values = {
            "q": self._values(call.q, call.heads, rows, call.d),
            "k": self._values(call.k, call.kv_heads, keys, call.d),
            "v": self._values(call.v, call.kv_heads, keys, call.dv),
        }
        if call.offset:
            shift = self.rng.standard_normal((1, call.kv_heads, 1, call.d))
            values["k"] = values["k"] + call.offset * shift
        self.grad_output = self.rng.standard_normal((self.batch, call.heads, rows, call.dv))
        self.grad_output = rounded(self.grad_output, NAMES[call.output])
        self.hidden = self._hidden() if call.poison else None
        self.floats: dict[str, np.ndarray] = {}
        """Operands before they are quantized (in FP32), or as they are stored."""
        self.quantized: dict[str, Quantized] = {}
        self.operand: dict[str, Operand] = {}
        for name, stored in call.operands.items():
            self._store(name, stored, values[name])

    def _values(self, stored: Stored, heads: int, rows: int, columns: int) -> np.ndarray:
        x = self.rng.standard_normal((self.batch, heads, rows, columns))
        x = x + 0.1 * np.arange(heads)[:, None, None]
        # What a stride of 0 repeats is the same everywhere.
        if stored.memory == "over batch" and self.batch:
            x = np.broadcast_to(x[:1], x.shape)
        if stored.memory == "over heads" and heads:
            x = np.broadcast_to(x[:, :1], x.shape)
        return x

    def _options(self) -> Options:
        call, rng = self.call, self.rng
        sequences = self.batch if call.lengths is None else len(call.lengths)
        mask = slopes = sinks = None
        if call.mask is not None:
            longest = (call.rows, call.keys)
            if call.lengths is not None:
                longest = tuple(max(pair[i] for pair in call.lengths) for i in (0, 1))
            full = (sequences, call.heads, *longest)
            shape = [n if d in "bhqk" else 1 for n, d in zip(full, call.mask.dims)]
            keep = rng.random(shape) >= call.mask.hidden
            if call.mask.precision == "bool":
                mask = keep
            else:
                hides = _LOWEST[call.mask.precision] if call.mask.lowest else -np.inf
                added = rounded(rng.standard_normal(shape), NAMES[call.mask.precision])
                mask = np.where(keep, added, hides)
        if call.slopes is not None:
            first = sequences if call.slopes == "bh" else 1
            slopes = np.float32(0.05 + 0.3 * rng.random((first, call.heads))).astype(np.float64)
        if call.sinks:
            sinks = np.float32(rng.standard_normal(call.heads)).astype(np.float64)
        return Options(
            scale=call.scale,
            softcap=call.softcap,
            causal=call.causal,
            window=call.window,
            alignment=BOTTOM_RIGHT if call.alignment == "bottom_right" else TOP_LEFT,
            mask=mask,
            alibi_slopes=slopes,
            sinks=sinks,
            lengths=None if call.lengths is None else list(call.lengths),
        )

    def _hidden(self) -> np.ndarray:
        """[batch, key heads, keys]: what no query row sees."""
        call = self.call
        if self.packing is not None:
            given = self.packing.options(self.options)
            rows, keys = (sum(pair[i] for pair in self.packing.lengths) for i in (0, 1))
            _, seen = bias(given, 1, call.heads, rows, keys)
            return ~self.packing.seen(seen, (self.batch, call.kv_heads, self.keys))
        _, seen = bias(self.options, self.batch, call.heads, self.rows, self.keys)
        group = call.heads // max(call.kv_heads, 1)
        by_group = seen.reshape(self.batch, call.kv_heads, group, self.rows, self.keys)
        return ~by_group.any(axis=(2, 3))

    def _store(self, name: str, stored: Stored, values: np.ndarray) -> None:
        hidden = None if name == "q" else self.hidden
        if stored.integer:
            source = rounded(values, NAMES["fp32"])
            tensor = quantize(source, scheme_of(stored))
            if hidden is not None and stored.granularity == "row" and not stored.smooth:
                # Only scales can: integers have no NaN.
                tensor.scale[hidden] = np.nan
            self.quantized[name] = tensor
            self.floats[name] = in_memory(source.astype(np.float32), stored.memory)
            self.operand[name] = Operand(
                values=dequantize(tensor),
                precision=NAMES[stored.precision],
                inside=inside(tensor),
                rotated=stored.rotate,
                row_scale=row_scale(tensor),
                single=dequantize(tensor, np.float32),
                deviation=dequantize_deviation(tensor),
            )
            return
        kept = rounded(values, NAMES[stored.precision])
        if hidden is not None and not stored.memory.startswith("over"):
            kept[hidden] = np.nan
        self.floats[name] = in_memory(kept.astype(DTYPES[stored.precision]), stored.memory)
        self.operand[name] = Operand(kept, NAMES[stored.precision])

    @property
    def poisoned_scales(self) -> bool:
        """Whether scales hold NaN: then a door that quantizes by itself has another call."""
        return any(np.isnan(tensor.scale).any() for tensor in self.quantized.values())

    # What options are as arrays.

    @property
    def mask(self) -> np.ndarray | None:
        """Of rank 4; dimensions that repeat by a stride of 0 have their full size."""
        mask, call = self.options.mask, self.call
        if mask is None or call.mask is None:
            return None
        stored = mask.astype(DTYPES[call.mask.precision])
        sequences = self.batch if call.lengths is None else len(call.lengths)
        longest = (self.rows, self.keys)
        if call.lengths is not None:
            longest = tuple(max(pair[i] for pair in call.lengths) for i in (0, 1))
        full = (sequences, call.heads, *longest)
        shape = [n if d == "0" else size for d, n, size in zip(call.mask.dims, full, mask.shape)]
        return repeated(stored, tuple(shape))

    @property
    def ends(self) -> list[np.ndarray]:
        """cu_seqlens_q and cu_seqlens_k."""
        assert self.call.lengths is not None
        columns = [[pair[i] for pair in self.call.lengths] for i in (0, 1)]
        return [np.cumsum([0, *column], dtype=np.int32) for column in columns]

    # What must come out.

    def problem(self, output: str) -> Problem:
        q, k, v = (self.operand[name] for name in "qkv")
        options = self.options
        if self.packing is not None:
            q, options = self.packing.rows.operand(q), self.packing.options(options)
            k, v = self.packing.keys.operand(k), self.packing.keys.operand(v)
        return Problem(q, k, v, options, NAMES[output])

    def _expected(
        self, values: np.ndarray, bound: Bound, of: str, nothing: np.ndarray | float = 0.0
    ) -> Expected:
        """`of`: what the rows of the values are; "" where they are none."""
        if self.packing is None or not of:
            return Expected(values, bound)
        _, heads, _, columns = values.shape
        rows = self.rows if of == "rows" else self.keys
        places = self.packing.rows if of == "rows" else self.packing.keys
        shape = (self.batch, heads, rows, columns)
        return Expected(values, bound, places, shape, nothing)

    def forward(self, output: str = "") -> dict[str, Expected]:
        """Output and logsumexp, for a result of a precision."""
        output = output or self.call.output
        if output not in self._forwards:
            problem = self.problem(output)
            exact = forward(problem)
            bounds = forward_bounds(problem, exact)
            sinks = self.options.sinks
            alone = -np.inf if sinks is None else sinks[:, None]
            self._forwards[output] = {
                "output": self._expected(exact.output, bounds["output"], "rows"),
                "logsumexp": self._expected(exact.logsumexp, bounds["logsumexp"], "rows", alone),
            }
        return self._forwards[output]

    @cached_property
    def _forwards(self) -> dict[str, dict[str, Expected]]:
        return {}

    def _packed_rows(self, x: np.ndarray, columns: int) -> np.ndarray:
        x = np.asarray(x).astype(np.float64)
        x = x.reshape(self.batch, self.call.heads, self.rows, columns)
        return x if self.packing is None else self.packing.rows.take(x)

    def gradients(self, output: str, found: dict[str, np.ndarray]) -> dict[str, Expected]:
        """Of q, k, v, mask and sinks, computed from the O and L that forward has given, where it has."""
        call = self.call
        columns = {"output": call.dv, "logsumexp": 1}
        given = {name: self._packed_rows(x, columns[name]) for name, x in found.items()}
        key = (output, *(x.tobytes() for x in given.values()))
        if key not in self._gradients:
            exact_l = self.forward(output)["logsumexp"].values
            problem, precision = self.problem(output), NAMES[output]
            incoming = Operand(self._packed_rows(self.grad_output, call.dv), precision)
            right = backward(problem, Incoming(incoming, exact_l))
            stored_l = given.get("logsumexp", rounded(exact_l, NAMES["fp32"]))
            bounds = gradient_bounds(
                problem, right, Incoming(incoming, stored_l, given.get("output"))
            )
            names = {
                "q": ("query", "rows"),
                "k": ("key", "keys"),
                "v": ("value", "keys"),
                "mask": ("mask", ""),
                "sinks": ("sinks", ""),
            }
            self._gradients[key] = {
                name: self._expected(getattr(right, long), bounds[long], of)
                for name, (long, of) in names.items()
                if getattr(right, long) is not None
            }
        return self._gradients[key]

    @cached_property
    def _gradients(self) -> dict[tuple[Any, ...], dict[str, Expected]]:
        return {}


__all__ = ["DTYPES", "Case", "Expected", "in_memory", "scheme_of"]
