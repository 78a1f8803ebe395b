"""The demo's Llama in PyTorch: its weights frozen, and adapters on every attention projection."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umfa.demo import _model as numpy_model
from umfa.demo._model import F32, Config

from ._lora import Lora
from ._modes import Attend


def tensor(array: F32) -> Tensor:
    """A tensor over ``array``'s memory, or over a copy of what cannot be written (a mapped file).

    The models of all modes share the weights.
    """
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs (2j, 2j+1) of ``x`` ``[B, n, H, D]`` by ``table`` ``[n, D/2]``, complex."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * table[:, None, :]).flatten(-2)


class Block(nn.Module):
    """Attention and feed-forward of one layer."""

    def __init__(
        self, config: Config, layer: numpy_model.Layer, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = tensor(layer.attention_norm)
        self.ffn_norm = tensor(layer.ffn_norm)
        self.gate_up, self.down = tensor(layer.gate_up), tensor(layer.down)
        width = config.head_dim
        parts = (config.heads * width, config.kv_heads * width, config.kv_heads * width)
        self.qkv = Lora(tensor(layer.qkv), parts, rank, generator)
        out = tensor(layer.attention_out)
        self.attention_out = Lora(out, (len(out),), rank, generator)

    def forward(self, x: Tensor, table: Tensor, attend: Attend) -> Tensor:
        """``x`` ``[B, n, E]`` after this layer."""
        c = self.config
        normed = self._norm(x, self.attention_norm)
        heads = self.qkv(normed).unflatten(-1, (-1, c.head_dim))
        q, k, v = heads.split((c.heads, c.kv_heads, c.kv_heads), dim=2)
        q, k = apply_rope(q, table), apply_rope(k, table)
        attended = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        gate, up = F.linear(self._norm(x, self.ffn_norm), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_epsilon)


class Llama(nn.Module):
    """The same function as :class:`umfa.demo._model.Llama` of ``source``, until trained.

    Its parameters are those of the adapters; ``seed`` draws them.
    """

    def __init__(
        self, source: numpy_model.Llama, attend: Attend, rank: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self.attend = source.config, attend
        weights = source.weights
        generator = torch.Generator().manual_seed(seed)
        self.embedding, self.output = tensor(weights.embedding), tensor(weights.output)
        self.final_norm = tensor(weights.final_norm)
        self.blocks = nn.ModuleList(
            Block(self.config, layer, rank, generator) for layer in weights.layers
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[B, n, V]`` of ``tokens`` ``[B, n]``."""
        c = self.config
        positions = np.arange(tokens.shape[1])
        table = numpy_model.rope_table(positions, c.head_dim, c.rope_base).astype(np.complex64)
        x = F.embedding(tokens, self.embedding)
        for block in self.blocks:
            x = block(x, torch.from_numpy(table), self.attend)
        x = F.rms_norm(x, self.final_norm.shape, self.final_norm, c.rms_epsilon)
        return F.linear(x, self.output)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token of ``windows`` ``[B, n + 1]``."""
        return F.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
