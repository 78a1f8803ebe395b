"""PyTorch's scaled_dot_product_attention on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.reference import Operands

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The query heads of a group as rows of one head: K and V are read once for all of them.
FOLDED = " folded"


class Torch:
    """Where a decode step has groups, each format also comes with the group folded into rows."""

    version = torch.__version__

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def formats(self, case: Case) -> Sequence[str]:
        plain = tuple(DTYPES)
        if case.rows == 1 and case.group > 1 and case.kind != TRAINING:
            return plain + tuple(name + FOLDED for name in plain)
        return plain

    def prepare(self, case: Case, storage: str, given: Operands, mask: Array | None) -> Prepared:
        dtype = DTYPES[storage.replace(FOLDED, "")]
        q, k, v = (torch.from_numpy(x).to(dtype) for x in (given.q, given.k, given.v))
        options: dict[str, Any] = {"is_causal": case.causal, "enable_gqa": case.group > 1}
        if mask is not None:
            options = {"attn_mask": torch.from_numpy(mask), "enable_gqa": case.group > 1}
        if case.kind == TRAINING:
            return self._training(q, k, v, given, options)
        if storage.endswith(FOLDED):
            # One row sees the same keys with either alignment of a causal mask only if it sees all.
            if case.causal:
                raise Refused("folded rows would have different causal masks")
            q = q.view(case.batch, case.kv_heads, case.group, case.columns)
            options = {}
        out: list[Any] = [None]

        def run() -> None:
            with torch.inference_mode():
                out[0] = F.scaled_dot_product_attention(q, k, v, **options)

        return Prepared(run, lambda: out[0].reshape(case.out_shape).float().numpy())

    def _training(
        self, q: Any, k: Any, v: Any, given: Operands, options: dict[str, Any]
    ) -> Prepared:
        inputs = [x.requires_grad_() for x in (q, k, v)]
        grad_out = torch.from_numpy(given.grad_out).to(q.dtype)
        gradients: list[Any] = [()]

        def run() -> None:
            out = F.scaled_dot_product_attention(*inputs, **options)
            gradients[0] = torch.autograd.grad(out, inputs, grad_out)

        return Prepared(run, lambda: tuple(x.float().numpy() for x in gradients[0]))


def make(threads: int, _library: str | None) -> Torch:
    """PyTorch with this many threads."""
    return Torch(threads)
