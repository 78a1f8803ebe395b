"""Attention in plain tensor operations, for results, logsumexps and gradients to compare with."""

from __future__ import annotations

from typing import Any

import torch


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    softcap: float | None = None,
    window: tuple[int, int] | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """The result and the logsumexp of [batch, heads, rows, columns]; diagonals are top-left."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = scale * (q @ k.mT)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    rows = torch.arange(q.shape[2])[:, None]
    columns = torch.arange(k.shape[2])
    if alibi_slopes is not None:
        slopes = alibi_slopes if alibi_slopes.ndim == 2 else alibi_slopes[None]
        scores = scores - slopes[..., None, None] * (rows - columns).abs()
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if causal:
        seen &= columns <= rows
    if window is not None:
        seen &= (columns >= rows - window[0]) & (columns <= rows + window[1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        seen = seen & attn_mask
    elif attn_mask is not None:
        scores = scores + attn_mask
    scores = scores.masked_fill(~seen, -torch.inf)
    column = scores.new_full((q.shape[1],), -torch.inf) if sinks is None else sinks
    column = column[:, None, None].expand(*scores.shape[:-1], 1).to(scores.dtype)
    scores = torch.cat([scores, column], -1)
    top = scores.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    some = torch.where(total == 0, torch.ones_like(total), total)
    logsumexp = torch.where(total == 0, torch.full_like(total, -torch.inf), some.log() + top)
    out = (weights / some)[..., : k.shape[2]] @ v
    return out, logsumexp[..., 0]
