"""umfa itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import umfa
from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.modes import MODES, Mode
from umfa.bench.reference import Operands


class Ours:
    """Calls on one context; operands are quantized beforehand and the output is reused."""

    version = umfa.__version__

    def __init__(self, threads: int) -> None:
        self._context = umfa.MFAContext(num_threads=threads)

    def formats(self, case: Case) -> Sequence[str]:
        return tuple(
            name
            for name, mode in MODES.items()
            if (mode.trains or case.kind != TRAINING) and not (mode.int4 and case.columns % 2)
        )

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        mode = MODES[storage]
        q, k, v = (self._stored(mode, name, getattr(given, name)) for name in "qkv")
        options: dict[str, Any] = {
            "causal": case.causal,
            "alignment": "top_left",
            "compute": mode.compute,
            "attn_mask": mask,
        }
        if case.kind == TRAINING:
            return self._training(q, k, v, given, options)
        dtype = np.float32 if isinstance(q, umfa.QuantizedTensor) else q.dtype
        out = np.empty(case.out_shape, dtype)
        workspace = umfa.workspace_size(q, k, v, self._context, **options)

        def run() -> None:
            umfa.flash_attention_forward(self._context, q, k, v, out=out, **options)

        return Prepared(run, lambda: out, workspace)

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
            return umfa.quantize(array, precision, context=self._context, **mode.quantizer)
        return array.astype(_dtype(mode.dtype), copy=False)


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
