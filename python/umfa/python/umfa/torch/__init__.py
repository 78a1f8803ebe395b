"""umfa for PyTorch: attention on CPU tensors.

>>> import torch, umfa.torch
>>> q = k = v = torch.ones(1, 2, 8, 16)
>>> umfa.torch.scaled_dot_product_attention(q, k, v, is_causal=True).shape
torch.Size([1, 2, 8, 16])
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from umfa import _native, _sdpa

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    context: _native.MFAContext | None = None,
    **options: Any,
) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention, computed by umfa.

    Args:
        query: (..., Hq, L, E), on the CPU, in float32, float16 or bfloat16.
        key: (..., H, S, E); leading dimensions broadcast.
        value: (..., H, S, Ev).
        attn_mask: bool (True: attend) or float, broadcastable to (..., Hq, L, S).
        dropout_p: 0; dropout is not supported.
        is_causal: row i sees key positions up to i. Not together with attn_mask.
        scale: None is 1 / sqrt(E).
        enable_gqa: let Hq be a multiple of H.
        context: an `umfa.MFAContext`; None is the default context.
        **options: precision, granularity, window, softcap and the like, as in `umfa.attention`.

    Returns:
        (..., Hq, L, Ev), in query's dtype.
    """
    out: Tensor = _sdpa.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        context=context,
        **options,
    )
    return out
