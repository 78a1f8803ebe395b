"""The plain formula in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from umfa.bench.cases import TRAINING, Case
from umfa.bench.engines import Array, Prepared, Refused
from umfa.bench.reference import Operands

MOST_SCORES = 1 << 27


class NumPy:
    """Stores the score matrix, so that large cases are refused."""

    version = np.__version__

    def formats(self, case: Case) -> Sequence[str]:
        return () if case.kind == TRAINING else ("fp32",)

    def prepare(self, case: Case, _storage: str, given: Operands, mask: Array | None) -> Prepared:
        if case.batch * case.heads * case.rows * case.keys > MOST_SCORES:
            raise Refused("its score matrix would be too large")
        seen = np.tri(case.rows, case.keys, dtype=bool) if case.causal else mask
        out = np.empty(case.out_shape, np.float32)
        scale = np.float32(case.columns**-0.5)

        def run() -> None:
            for b in range(case.batch):
                for h in range(case.heads):
                    kv = h // case.group
                    scores = (given.q[b, h] * scale) @ given.k[b, kv].T
                    if seen is not None:
                        scores[~seen] = -np.inf
                    scores -= scores.max(-1, keepdims=True)
                    np.exp(scores, out=scores)
                    scores /= scores.sum(-1, keepdims=True)
                    np.matmul(scores, given.v[b, kv], out=out[b, h])

        return Prepared(run, lambda: out)


def make(_threads: int, _library: str | None) -> NumPy:
    """BLAS took its number of threads from the environment."""
    return NumPy()
