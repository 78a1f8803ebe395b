"""What PyTorch runs for one attention: the place where autograd meets the engine."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from umfa import _native


def attend(
    q: Tensor, k: Tensor, v: Tensor, context: _native.MFAContext | None = None, **options: Any
) -> Tensor:
    """`umfa.attention` on tensors of rank 4. Tensors that require gradients are refused."""
    out: Tensor = _native.attention(q, k, v, context, **options)
    return out
