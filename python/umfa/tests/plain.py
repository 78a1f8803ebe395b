"""The plain formula of attention, in float64, on [batch, heads, rows, columns]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    shift: int = 0,
    scale: float | None = None,
    mask: Array | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    slopes: Array | None = None,
    sinks: Array | None = None,
) -> tuple[Array, Array]:
    """Output and logsumexp; `shift` is Nk - Nq for the bottom-right alignment."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    away = np.arange(k.shape[2]) - np.arange(q.shape[2])[:, None] - shift
    if slopes is not None:
        scores = scores - slopes.reshape(-1, q.shape[1], 1, 1) * np.abs(away)
    if causal:
        scores = np.where(away <= 0, scores, -np.inf)
    if window is not None:
        left, right = window
        seen = ((left < 0) | (away >= -left)) & ((right < 0) | (away <= right))
        scores = np.where(seen, scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        top = np.maximum(top, sinks[:, None, None])
    finite = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - finite)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - finite)
    with np.errstate(divide="ignore"):
        logsumexp = (finite + np.log(total))[..., 0]
    return weights @ v / np.where(total == 0, 1, total), logsumexp


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))
