"""umfa for PyTorch: attention on CPU tensors.

>>> import torch, umfa.torch
>>> q = k = v = torch.ones(1, 2, 8, 16)
>>> umfa.torch.scaled_dot_product_attention(q, k, v, is_causal=True).shape
torch.Size([1, 2, 8, 16])
"""

from umfa.torch._attention import attention
from umfa.torch._merge import merge
from umfa.torch._sdpa import scaled_dot_product_attention

__all__ = ["attention", "merge", "scaled_dot_product_attention"]
