"""Attention by the conformance reference, in float64, on [batch, heads, rows, columns]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[3] / "tests" / "conformance"))

from reference.forward import forward
from reference.problem import BOTTOM_RIGHT, TOP_LEFT, Operand, Options, Problem

Array = npt.NDArray[Any]


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    alignment: str = "top_left",
    scale: float | None = None,
    mask: Array | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    slopes: Array | None = None,
    sinks: Array | None = None,
) -> tuple[Array, Array]:
    """Output and logsumexp ``[batch, heads, rows]``; masks and slopes may have fewer axes."""
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        mask = mask if mask.dtype == np.bool_ else mask.astype(np.float64)
    options = Options(
        scale=scale,
        softcap=softcap,
        causal=causal,
        window=window,
        alignment=BOTTOM_RIGHT if alignment == "bottom_right" else TOP_LEFT,
        mask=mask,
        alibi_slopes=None if slopes is None else slopes.reshape(-1, q.shape[1]).astype(np.float64),
        sinks=None if sinks is None else sinks.astype(np.float64),
    )
    found = forward(Problem(*(Operand(x.astype(np.float64)) for x in (q, k, v)), options))
    return found.output, found.logsumexp[..., 0]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))
