"""jax.nn.dot_product_attention, compiled by XLA, which uses all processors of the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared
from umfa.bench.reference import Operands

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


class Jax:
    """One compiled function for each case."""

    version = jax.__version__

    def formats(self, _case: Case) -> Sequence[str]:
        return tuple(DTYPES)

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        def put(array: Any) -> Any:
            # Its layout is (batch, rows, heads, columns).
            return jax.device_put(jnp.asarray(array.swapaxes(1, 2), DTYPES[storage]))

        def attention(q: Any, k: Any, v: Any) -> Any:
            seen = None if mask is None else mask[None, None]
            return jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=case.causal)

        def gradients(q: Any, k: Any, v: Any, grad_out: Any) -> Any:
            return jax.vjp(attention, q, k, v)[1](grad_out)

        arguments = [put(given.q), put(given.k), put(given.v)]
        if case.kind == TRAINING:
            arguments.append(put(given.grad_out))
        call = jax.jit(gradients if case.kind == TRAINING else attention)
        result: list[Any] = [None]

        def run() -> None:
            result[0] = jax.block_until_ready(call(*arguments))

        def back(x: Any) -> Any:
            return np.asarray(x.astype(jnp.float32)).swapaxes(1, 2)

        if case.kind == TRAINING:
            return Prepared(run, lambda: tuple(back(x) for x in result[0]))
        return Prepared(run, lambda: back(result[0]))


def make(_threads: int, _library: str | None) -> Jax:
    """The process was given as many processors as threads."""
    return Jax()
