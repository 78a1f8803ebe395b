"""Batching rules: `torch.vmap` over the operators.

The mapped dimension becomes part of the batch where that changes nothing; elsewhere the operator
runs once for each of its elements. Ranks below are those without the mapped dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from umfa.torch._options import Plain

Dims = tuple[Any, ...]
"""Where the mapped dimension of each argument is; None: nowhere."""


def attention(info: Any, in_dims: Dims, *inputs: Any) -> tuple[tuple[Tensor, ...], Dims]:
    operator = torch.ops.umfa.attention.default
    q, k, v, mask, slopes, sinks, cu_q, cu_k, used_k, *plain = inputs
    size = info.batch_size
    if size == 0 or in_dims[5] is not None or _one_batch(cu_q, plain):
        return _one_by_one(operator, size, in_dims, inputs)
    batch = _batch(q, in_dims[0])
    results = operator(
        *(_fold(x, dim, size, batch) for x, dim in zip((q, k, v), in_dims)),
        _fold_broadcast(mask, in_dims[3], size, batch, 4),
        _fold_broadcast(slopes, in_dims[4], size, batch, 2),
        sinks,
        cu_q,
        cu_k,
        _fold(used_k, in_dims[8], size, batch),
        *plain,
    )
    return tuple(x.unflatten(0, (size, batch)) for x in results), (0,) * len(results)


def attention_backward(info: Any, in_dims: Dims, *inputs: Any) -> tuple[tuple[Tensor, ...], Dims]:
    operator = torch.ops.umfa.attention_backward.default
    mask, slopes, sinks, cu_q, cu_k, used_k, *plain, need = inputs[7:]
    mask_dim, slopes_dim, sinks_dim, _, _, used_dim = in_dims[7:13]
    size = info.batch_size
    # The gradient of sinks is summed over the batch.
    apart = sinks_dim is not None or need[4]
    if size == 0 or apart or _one_batch(cu_q, plain):
        return _one_by_one(operator, size, in_dims, inputs)
    batch = _batch(inputs[2], in_dims[2])
    if need[3]:
        mask, mask_dim = _mapped(mask, mask_dim, size), 0
    gradients = operator(
        *(_fold(x, dim, size, batch) for x, dim in zip(inputs[:7], in_dims)),
        _fold_broadcast(mask, mask_dim, size, batch, 4),
        _fold_broadcast(slopes, slopes_dim, size, batch, 2),
        sinks,
        cu_q,
        cu_k,
        _fold(used_k, used_dim, size, batch),
        *plain,
        need,
    )
    results = [
        x.unflatten(0, (size, batch)) if needed else x.new_empty((size, 0))
        for x, needed in zip(gradients, need)
    ]
    if need[3]:
        results[3] = _sum_to(results[3], mask)
    return tuple(results), (0,) * len(results)


def _batch(q: Tensor, dim: int | None) -> int:
    return int(q.shape[1 if dim == 0 else 0])


def _one_batch(cu_seqlens: Tensor | None, plain: list[Any]) -> bool:
    """Whether more elements in the batch are not allowed, or give other results."""
    return cu_seqlens is not None or Plain(*plain).shares_scales()


def _mapped(x: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped dimension first; what is not mapped repeats without a copy."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _fold(x: Tensor | None, dim: int | None, size: int, batch: int) -> Tensor | None:
    """Makes the mapped dimension part of the batch, which is first."""
    if x is None:
        return None
    x = _mapped(x, dim, size)
    return x.reshape(size * batch, *x.shape[2:])


def _fold_broadcast(
    x: Tensor | None, dim: int | None, size: int, batch: int, rank: int
) -> Tensor | None:
    """The same for what broadcasts from the right to `rank` dimensions, a batch first."""
    if x is None or (dim is None and (x.ndim < rank or x.shape[0] == 1)):
        return x
    x = _mapped(x, dim, size)
    x = x[(slice(None),) + (None,) * (rank + 1 - x.ndim)]
    x = x.expand(size, batch, *x.shape[2:])
    return x.reshape(size * batch, *x.shape[2:])


def _sum_to(gradient: Tensor, mask: Tensor) -> Tensor:
    """From [mapped, batch, ...] to the shape of the mask, whose mapped dimension is first."""
    if mask.ndim < gradient.ndim:
        return gradient.sum(1).reshape(mask.shape)
    return gradient.sum(1, keepdim=True) if mask.shape[1] == 1 else gradient


def _one_by_one(
    operator: Callable[..., Any], size: int, in_dims: Dims, inputs: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], Dims]:
    def element(x: Any, dim: Any, index: int) -> Any:
        if not isinstance(dim, int):
            return x
        if size == 0:  # any, for the shapes of the results
            return x.new_zeros((*x.shape[:dim], *x.shape[dim + 1 :]))
        return x.select(dim, index)

    each = [
        operator(*(element(x, dim, index) for x, dim in zip(inputs, in_dims)))
        for index in range(max(size, 1))
    ]
    results = tuple(torch.stack(parts)[:size] for parts in zip(*each))
    return results, (0,) * len(results)
