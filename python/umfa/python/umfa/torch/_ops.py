"""The custom operators `umfa::attention` and `umfa::attention_backward`: autograd on the engine.

Both take tensors of rank 4 (or packed sequences), and the rest of the options as plain values, so
that torch.compile can trace through them: windows as two numbers with -1 for no limit, and how
operands are quantized as text (see `_encode`).
"""

# Every function of an operator takes all of its arguments.
# No `from __future__ import annotations` here: torch reads the operators' schemas from annotations.
import ast
from typing import Any, Optional
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from umfa import _native
from umfa._errors import InvalidArgument

_CONTEXTS: "WeakValueDictionary[int, _native.MFAContext]" = WeakValueDictionary()
"""Contexts by the number that stands for them in an operator's arguments; 0 is the default one."""

_default: Optional[_native.MFAContext] = None

_ATTENTION_OPTIONS = frozenset(
    ("causal", "softmax_scale", "window", "softcap", "alignment", "compute", "clip")
)
_TENSORS = ("attn_mask", "alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k")


def _context(number: int) -> _native.MFAContext:
    global _default
    if number:
        found = _CONTEXTS.get(number)
        if found is None:
            raise InvalidArgument(f"context: number {number} is no live context")
        return found
    if _default is None or _default.closed:
        _default = _native.MFAContext()
    return _default


def _number(context: Optional[_native.MFAContext]) -> int:
    if context is None:
        return 0
    _CONTEXTS[id(context)] = context
    return id(context)


def _options(
    causal: bool,
    softmax_scale: Optional[float],
    window_left: int,
    window_right: int,
    softcap: float,
    alignment: str,
    compute: str,
    quantization: str,
) -> dict[str, Any]:
    """The keywords of `umfa.attention` from an operator's arguments."""
    windowed = window_left >= 0 or window_right >= 0
    sides = tuple(side if side >= 0 else None for side in (window_left, window_right))
    options: dict[str, Any] = {
        "causal": causal,
        "softmax_scale": softmax_scale,
        "window": sides if windowed else None,
        "softcap": softcap or None,
        "alignment": alignment,
        "compute": compute,
    }
    if quantization:
        options.update(ast.literal_eval(quantization))
    return options


def _present(**tensors: Optional[Tensor]) -> dict[str, Any]:
    return {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}


@torch.library.custom_op("umfa::attention", mutates_args=(), device_types="cpu")
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Optional[Tensor],
    alibi_slopes: Optional[Tensor],
    sinks: Optional[Tensor],
    cu_seqlens_q: Optional[Tensor],
    cu_seqlens_k: Optional[Tensor],
    causal: bool,
    softmax_scale: Optional[float],
    window_left: int,
    window_right: int,
    softcap: float,
    alignment: str,
    compute: str,
    quantization: str,
    clip: bool,
    context: int,
) -> tuple[Tensor, Tensor]:
    """Attention and its logsumexp; `clip` is for the backward operator."""
    options = _options(
        causal, softmax_scale, window_left, window_right, softcap, alignment, compute, quantization
    )
    out, logsumexp = _native.attention(
        q.detach(),
        k.detach(),
        v.detach(),
        _context(context),
        return_logsumexp=True,
        **_present(
            attn_mask=attn_mask,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
        ),
        **options,
    )
    return out, logsumexp


@attention_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Optional[Tensor], *_: Any
) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("umfa::attention_backward", mutates_args=(), device_types="cpu")
def attention_backward_op(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    attn_mask: Optional[Tensor],
    alibi_slopes: Optional[Tensor],
    sinks: Optional[Tensor],
    cu_seqlens_q: Optional[Tensor],
    cu_seqlens_k: Optional[Tensor],
    causal: bool,
    softmax_scale: Optional[float],
    window_left: int,
    window_right: int,
    softcap: float,
    alignment: str,
    compute: str,
    quantization: str,
    clip: bool,
    context: int,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, attn_mask and sinks in their dtypes; those not needed are empty."""
    options = _options(
        causal, softmax_scale, window_left, window_right, softcap, alignment, compute, quantization
    )
    need_q, need_k, need_v, need_mask, need_sinks = need
    found = _native.flash_attention_backward(
        _context(context),
        grad_out.detach(),
        q.detach(),
        k.detach(),
        v.detach(),
        out.detach(),
        logsumexp.detach(),
        need=(need_q, need_k, need_v),
        clip=clip,
        grad_mask=need_mask,
        grad_sinks=need_sinks,
        **_present(
            attn_mask=attn_mask,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
        ),
        **options,
    )
    gradients = list(found[:3])
    rest = iter(found[3:])
    gradients += [next(rest) if wanted else None for wanted in (need_mask, need_sinks)]
    operands = (q, k, v, attn_mask, sinks)
    dq, dk, dv, dmask, dsinks = (
        q.new_empty(0) if gradient is None or x is None else gradient.to(x.dtype)
        for gradient, x in zip(gradients, operands)
    )
    return dq, dk, dv, dmask, dsinks


@attention_backward_op.register_fake
def _(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    attn_mask: Optional[Tensor],
    alibi_slopes: Optional[Tensor],
    sinks: Optional[Tensor],
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    operands = (q, k, v, attn_mask, sinks)
    dq, dk, dv, dmask, dsinks = (
        x.new_empty(x.shape) if x is not None and needed else q.new_empty(0)
        for x, needed in zip(operands, rest[-1])
    )
    return dq, dk, dv, dmask, dsinks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.plain = inputs[:8], inputs[8:]
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_out: Optional[Tensor], _: Optional[Tensor]
) -> tuple[Optional[Tensor], ...]:
    if grad_out is None:
        return (None,) * (8 + len(ctx.plain))
    q, k, v, mask, slopes, sinks, cu_q, cu_k, out, logsumexp = ctx.saved_tensors
    if ctx.needs_input_grad[4]:
        raise InvalidArgument("umfa::attention: the gradient of alibi_slopes is not supported")
    need = [ctx.needs_input_grad[index] for index in (0, 1, 2, 3, 5)]
    gradients = attention_backward_op(
        grad_out, q, k, v, out, logsumexp, mask, slopes, sinks, cu_q, cu_k, *ctx.plain, need
    )
    dq, dk, dv, dmask, dsinks = (
        gradient if needed else None for gradient, needed in zip(gradients, need)
    )
    return (dq, dk, dv, dmask, None, dsinks, None, None, *(None for _ in ctx.plain))


attention_op.register_autograd(_backward, setup_context=_setup_context)


def _no_double_backward(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "umfa::attention_backward has no gradient: double backward through attention is not "
        "supported"
    )


attention_backward_op.register_autograd(_no_double_backward)


def _fold(x: Tensor, dimension: Optional[int], size: int, batch: int) -> Tensor:
    """Makes the mapped dimension part of the batch; what is not mapped repeats without a copy."""
    x = x.unsqueeze(0).expand(size, *x.shape) if dimension is None else x.movedim(dimension, 0)
    if x.shape[1] != batch:
        x = x.expand(size, batch, *x.shape[2:])
    return x.reshape(size * batch, *x.shape[2:])


def _vmap(
    info: Any, in_dims: tuple[Any, ...], *inputs: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    q, k, v, mask, slopes, sinks, cu_q, cu_k, *plain = inputs
    if any(dimension is not None for dimension in in_dims[4:8]) or cu_q is not None:
        raise InvalidArgument(
            "umfa::attention: vmap maps q, k, v and attn_mask; found a mapped alibi_slopes, sinks "
            "or packed sequences"
        )
    size = info.batch_size
    batch = q.shape[0] if in_dims[0] != 0 else q.shape[1]
    q, k, v = (_fold(x, dim, size, batch) for x, dim in zip((q, k, v), in_dims[:3]))
    if mask is not None:
        rank = mask.ndim - (in_dims[3] is not None)
        at = in_dims[3] if in_dims[3] is not None else 0
        for _ in range(4 - rank):
            mask = mask.unsqueeze(at + 1 if in_dims[3] is not None else 0)
        mask = _fold(mask, in_dims[3], size, batch)
    results = attention_op(q, k, v, mask, slopes, sinks, cu_q, cu_k, *plain)
    out, logsumexp = (x.unflatten(0, (size, batch)) for x in results)
    return (out, logsumexp), (0, 0)


if hasattr(torch.library, "register_vmap"):
    torch.library.register_vmap(attention_op, _vmap)


def _encode(quantization: dict[str, Any]) -> str:
    """Options of quantization as the text of a Python literal; "" without any."""
    items = []
    for name in sorted(quantization):
        value = quantization[name]
        if isinstance(value, dict):
            inner = ", ".join([f"{key!r}: {value[key]!r}" for key in sorted(value)])
            items.append(f"{name!r}: {{{inner}}}")
        elif value is not None:
            items.append(f"{name!r}: {value!r}")
    return "{" + ", ".join(items) + "}" if items else ""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context: Optional[_native.MFAContext] = None,
    **options: Any,
) -> Tensor:
    """`umfa.attention` on tensors, with gradients; `clip` zeroes those of clipped elements."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        q, k, v = (x.to(dtype) if x.dtype == torch.float32 else x for x in (q, k, v))
    window = options.get("window")
    left, right = window if isinstance(window, (tuple, list)) else (window, window)
    quantization = {
        name: value
        for name, value in options.items()
        if name not in _ATTENTION_OPTIONS and name not in _TENSORS
    }
    out: Tensor
    out, _ = attention_op(
        q,
        k,
        v,
        *[options.get(name) for name in _TENSORS],
        bool(options.get("causal", False)),
        options.get("softmax_scale"),
        -1 if left is None else left,
        -1 if right is None else right,
        options.get("softcap") or 0.0,
        options.get("alignment", "top_left"),
        options.get("compute", "exact"),
        _encode(quantization),
        bool(options.get("clip", False)),
        _number(context),
    )
    return out
