"""Low-rank adapters on frozen linear layers (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Scale of an adapter times its rank: the usual α = 16, whatever the rank.
ALPHA = 16


class Lora(nn.Module):
    """y = x Wᵀ + (α / r) · x Aᵀ Bᵀ, with W frozen.

    ``weight`` ``[out, in]`` may be several projections fused along its rows, ``parts`` of them
    each: every one then has an A ``[r, in]`` and a B ``[part, r]`` of its own. B starts at 0, and
    with it the adapter.
    """

    def __init__(
        self, weight: Tensor, parts: Sequence[int], rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", weight)
        self.scale = ALPHA / rank
        bound = math.sqrt(3 / weight.shape[1])  # variance 1 / in, so that x Aᵀ is as large as x
        down = torch.empty(len(parts) * rank, weight.shape[1])
        self.down = nn.Parameter(down.uniform_(-bound, bound, generator=generator))
        self.up = nn.ParameterList(torch.zeros(part, rank) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.down).chunk(len(self.up), dim=-1)
        changes = [F.linear(part, up) for part, up in zip(low, self.up)]
        return F.linear(x, self.weight) + self.scale * torch.cat(changes, dim=-1)
