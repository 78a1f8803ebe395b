"""`umfa.attention` on tensors, with gradients: from the caller's tensors to the operator's."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from umfa import _native
from umfa._errors import InvalidDimensions, InvalidType, Unsupported
from umfa.torch import _options
from umfa.torch._context import number_of
from umfa.torch._ops import attention_op

Names = tuple[str, str, str]
"""What the caller calls query, key and value."""


def operands(tensors: tuple[Any, Any, Any], names: Names) -> tuple[Tensor, Tensor, Tensor]:
    """The operands in the dtype of autocast, where it is on; nothing is compared before."""
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else None
    results = []
    for x, name in zip(tensors, names):
        if not isinstance(x, Tensor):
            raise InvalidType(
                f"{name}: {type(x).__name__}, expected a torch.Tensor; umfa.attention takes other "
                "arrays, and quantized ones"
            )
        if x.device.type not in ("cpu", "meta"):
            raise Unsupported(
                f"{name}: a tensor on device {x.device}, expected cpu; tensor.cpu() makes a copy "
                "there"
            )
        eligible = x.is_floating_point() and x.dtype != torch.float64
        results.append(x.to(dtype) if dtype is not None and eligible else x)
    return results[0], results[1], results[2]


def extras(options: dict[str, Any], q: Tensor) -> tuple[Tensor | None, ...]:
    """The tensors among the options, as the operator takes them."""
    mask = options.get("attn_mask")
    return (
        None if mask is None else _options.as_tensor(mask, "attn_mask"),
        _options.parameter(options.get("alibi_slopes"), "alibi_slopes", q),
        _options.parameter(options.get("sinks"), "sinks", q),
        *(_options.lengths(options.get(name), name) for name in _options.TENSORS[3:]),
    )


def call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: tuple[Tensor | None, ...],
    plain: _options.Plain,
) -> tuple[Tensor, Tensor]:
    """The operator on [batch, heads, rows, columns]: the result and its logsumexp."""
    found: tuple[Tensor, Tensor] = attention_op(q, k, v, *tensors, *plain)
    return found


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_logsumexp: Literal[False] = ...,
    context: _native.MFAContext | None = ...,
    **options: Any,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_logsumexp: Literal[True],
    context: _native.MFAContext | None = ...,
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_logsumexp: bool = False,
    context: _native.MFAContext | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`umfa.attention` on float tensors, with gradients.

    Args:
        q: of rank 4, 3 or 2, in the order that `layout` says, as in `umfa.attention`.
        k: the same.
        v: the same.
        return_logsumexp: return (out, logsumexp); both have gradients. `merge` joins such results.
        context: an `umfa.MFAContext`; None is the default context.
        **options: causal, softmax_scale, attn_mask, window and the others of `umfa.attention`, but
            not out; and clip: zero the gradients of elements that quantization clipped.

    Returns:
        The result in q's dtype, or also its logsumexp, float32 [batch, heads, rows] in every
        layout.

    Example:
        >>> import torch, umfa.torch
        >>> q = torch.ones(1, 8, 2, 16, requires_grad=True)  # [batch, rows, heads, columns]
        >>> out, lse = umfa.torch.attention(q, q, q, layout="BNHD", return_logsumexp=True)
        >>> lse.sum().backward()
        >>> out.shape, lse.shape, q.grad.shape
        (torch.Size([1, 8, 2, 16]), torch.Size([1, 2, 8]), torch.Size([1, 8, 2, 16]))
    """
    q, k, v = operands((q, k, v), ("q", "k", "v"))
    wanted = _options.boolean(return_logsumexp, "return_logsumexp")
    plain = _options.plain("attention", options, number_of(context))
    layout = plain.layout
    tensors = extras(options, q)
    packed = tensors[3] is not None or tensors[4] is not None
    rank = q.ndim
    for x, name in ((q, "q"), (k, "k"), (v, "v")):
        if x.ndim not in (2, 3, 4):
            raise InvalidDimensions(f"{name}: shape {tuple(x.shape)}, expected rank 2, 3 or 4")
        if x.ndim != rank:
            raise InvalidDimensions(
                f"{name}: shape {tuple(x.shape)}, expected rank {rank} as q with shape "
                f"{tuple(q.shape)}"
            )
    # The axes that the caller left out, in the operator's order.
    missing: tuple[int, ...] = ()
    if rank == 2:
        missing = (0, 1)
    elif rank == 3:
        missing = (0,) if layout == "BNHD" or packed else (1,)
    if rank == 4 or (rank == 3 and layout == "BNHD"):
        q, k, v = (in_order(x, layout) for x in (q, k, v))
    for axis in missing:
        q, k, v = (x.unsqueeze(axis) for x in (q, k, v))
    mask = tensors[0]
    if missing == (1,) and mask is not None and mask.ndim == 3:
        tensors = (mask.unsqueeze(1), *tensors[1:])
    out, logsumexp = call(q, k, v, tensors, plain)
    for axis in reversed(missing):
        out, logsumexp = out.squeeze(axis), logsumexp.squeeze(axis)
    if rank == 4 or (rank == 3 and layout == "BNHD"):
        out = in_order(out, layout)
    return (out, logsumexp) if wanted else out


def in_order(x: Tensor, layout: str) -> Tensor:
    """From the caller's order of axes to the operator's, and back."""
    return x.transpose(-3, -2) if layout == "BNHD" and x.ndim > 2 else x
