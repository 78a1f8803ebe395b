"""mlx.core.fast.scaled_dot_product_attention on the CPU, or on the GPU of a Mac."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared
from umfa.bench.reference import Operands

DTYPES = {"fp32": mx.float32, "fp16": mx.float16, "bf16": mx.bfloat16}


class Mlx:
    """Lazy arrays, evaluated in each call."""

    version = version("mlx")

    def formats(self, _case: Case) -> Sequence[str]:
        return tuple(DTYPES)

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        q, k, v = (mx.array(x).astype(DTYPES[storage]) for x in (given.q, given.k, given.v))
        seen: Any = "causal" if case.causal else None
        if mask is not None:
            seen = mx.array(mask)
        mx.eval(q, k, v)

        def attention(q: Any, k: Any, v: Any) -> Any:
            return mx.fast.scaled_dot_product_attention(
                q, k, v, scale=case.columns**-0.5, mask=seen
            )

        result: list[Any] = [None]
        if case.kind == TRAINING:
            grad_out = mx.array(given.grad_out).astype(DTYPES[storage])

            def train() -> None:
                result[0] = mx.vjp(attention, [q, k, v], [grad_out])[1]
                mx.eval(*result[0])

            return Prepared(train, lambda: tuple(_numpy(x) for x in result[0]))

        def run() -> None:
            result[0] = attention(q, k, v)
            mx.eval(result[0])

        return Prepared(run, lambda: _numpy(result[0]))


def _numpy(x: Any) -> Any:
    return np.array(x.astype(mx.float32))


def make(_threads: int, _library: str | None) -> Mlx:
    """The process was given as many processors as threads."""
    return Mlx()
