"""umfa itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import umfa
from umfa.bench import cases
from umfa.bench.cases import FORWARD, TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused, _storing
from umfa.bench.engines._memory import PlainMemory
from umfa.bench.modes import (
    CACHE_FORMATS,
    COPY,
    FROM_FLOATS,
    MODES,
    NAMED,
    READ,
    TENSORS,
    Mode,
    base,
)
from umfa.bench.reference import Operands


class Ours:
    """Calls on one context; operands are quantized beforehand and the output is reused."""

    version = umfa.__version__

    def __init__(self, threads: int) -> None:
        self._context = umfa.MFAContext(num_threads=threads)
        self._memory = PlainMemory(threads)

    def formats(self, case: Case) -> Sequence[str]:
        if case.stores:
            return (COPY, *(n for n, stored in TENSORS.items() if fits(stored.mode, case)))
        known = {cases.FORMATS_PRESET: CACHE_FORMATS, cases.SHAPE_PRESET: NAMED}.get(
            case.preset, MODES
        )
        names = []
        for name, mode in known.items():
            if fits(mode, case):
                names.append(name)
                # Keys of a cache are quantized once, not in each step.
                if mode.precision and case.kind == FORWARD and not case.decode:
                    names.append(name + FROM_FLOATS)
        return (READ, *names) if case.preset == cases.FORMATS_PRESET else names

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        if case.stores:
            return _storing.prepare(case, storage, given.k, self._context, self._memory)
        if storage == READ:
            return self._memory.read([given.k, given.v])
        mode = NAMED[base(storage)]
        options: dict[str, Any] = {
            "causal": case.causal,
            "alignment": "top_left",
            "compute": mode.compute,
            "attn_mask": mask,
        }
        if storage == base(storage):
            q, k, v = (self._stored(mode, name, getattr(given, name)) for name in "qkv")
        else:
            q, k, v = given.q, given.k, given.v
            options.update(mode.in_call())
        if case.kind == TRAINING:
            return self._training(q, k, v, given, options)
        dtype = np.float32 if isinstance(q, umfa.QuantizedTensor) else q.dtype
        out = np.empty(case.out_shape, dtype)
        workspace = umfa.workspace_size(q, k, v, self._context, **options)

        def run() -> None:
            umfa.flash_attention_forward(self._context, q, k, v, out=out, **options)

        moved = sum(_storing.nbytes(operand) for operand in (q, k, v, out))
        return Prepared(run, lambda: out, workspace, moved)

    def _training(
        self, q: Any, k: Any, v: Any, given: Operands, options: dict[str, Any]
    ) -> Prepared:
        if given.grad_out is None:
            raise Refused("no gradient of the output was given")
        grad_out = given.grad_out.astype(getattr(q, "dtype", np.float32), copy=False)
        gradients: list[tuple[Any, ...]] = [()]

        def run() -> None:
            out, lse = umfa.flash_attention_forward(
                self._context, q, k, v, return_logsumexp=True, **options
            )
            gradients[0] = umfa.flash_attention_backward(
                self._context, grad_out, q, k, v, out, lse, **options
            )

        return Prepared(run, lambda: gradients[0])

    def _stored(self, mode: Mode, name: str, array: Array) -> Any:
        if name in mode.quantized:
            precision: Any = mode.precision
            return umfa.quantize(array, precision, context=self._context, **mode.keywords(name))
        return array.astype(_dtype(mode.dtype), copy=False)


def fits(mode: Mode, case: Case) -> bool:
    """Whether a case can be measured in a mode."""
    return (mode.trains or case.kind != TRAINING) and not (mode.int4 and case.columns % 2)


def _dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise Refused("bfloat16 in NumPy needs the package ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


def make(threads: int, _library: str | None) -> Ours:
    """The engine on a context with this many threads."""
    return Ours(threads)
