"""The kinds of attention that are compared: the demo's formats, as keywords of `umfa.attention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import umfa.torch
from umfa.demo._modes import MODES, Mode

#: ``attend(q, k, v)``: causal attention of ``[B, Hq, N, D]`` on ``[B, H, N, D]``.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

TITLES = {**{mode.name: mode.title for mode in MODES}, "torch": "PyTorch's own"}


def quantization(mode: Mode) -> dict[str, Any]:
    """The keywords of ``umfa.attention`` that quantize each operand as ``mode`` stores it.

    A whole window is quantized at once. With granularity ``"channel"`` a row's rounding therefore
    depends, through the scale of its block, on up to ``block_rows - 1`` rows after it.
    """
    keywords: dict[str, dict[str, Any]] = {}
    for operand in "qkv":
        form = getattr(mode, operand)
        if form is not None:
            for name, value in asdict(form).items():
                if value is not None:
                    keywords.setdefault(name, {})[operand] = value
    return keywords


def attention(name: str) -> Attend:
    """The attention of the mode called ``name``, one of :data:`TITLES`."""
    if name == "torch":
        return partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    mode = next(mode for mode in MODES if mode.name == name)
    return partial(
        umfa.torch.scaled_dot_product_attention,
        is_causal=True,
        enable_gqa=True,
        **quantization(mode),
    )
