"""`torch.nn.functional.scaled_dot_product_attention`, computed by the operator."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from umfa import _native
from umfa._errors import InvalidArgument, InvalidDimensions, InvalidType, Unsupported
from umfa._sdpa import check_mask, promote
from umfa.torch import _options
from umfa.torch._attention import call, extras, in_order, operands
from umfa.torch._context import number_of

Shape = tuple[int, ...]


@overload
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = ...,
    dropout_p: float = ...,
    is_causal: bool = ...,
    scale: float | None = ...,
    enable_gqa: bool = ...,
    *,
    return_logsumexp: Literal[False] = ...,
    context: _native.MFAContext | None = ...,
    **options: Any,
) -> Tensor: ...


@overload
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = ...,
    dropout_p: float = ...,
    is_causal: bool = ...,
    scale: float | None = ...,
    enable_gqa: bool = ...,
    *,
    return_logsumexp: Literal[True],
    context: _native.MFAContext | None = ...,
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    return_logsumexp: bool = False,
    context: _native.MFAContext | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """torch.nn.functional.scaled_dot_product_attention, computed by umfa.

    Args:
        query: (..., Hq, L, E), on the CPU, in float32, float16 or bfloat16.
        key: (..., H, S, E); leading dimensions broadcast.
        value: (..., H, S, Ev).
        attn_mask: bool (True: attend) or float, broadcastable to (..., Hq, L, S).
        dropout_p: 0; dropout is not supported.
        is_causal: row i attends to key positions up to i. Not together with attn_mask.
        scale: None is 1 / sqrt(E).
        enable_gqa: let Hq be a multiple of H.
        return_logsumexp: return (out, logsumexp), float32 (..., Hq, L); both have gradients.
        context: an `umfa.MFAContext`; None is the default context.
        **options: precision, granularity, window, softcap, layout and the like, as in
            `umfa.attention`. With layout "BNHD", heads and rows are swapped in query, key, value
            and the result.

    Returns:
        (..., Hq, L, Ev), in query's dtype.
    """
    wanted = _options.boolean(return_logsumexp, "return_logsumexp")
    if dropout_p != 0.0:
        raise Unsupported(f"dropout_p: {dropout_p}, expected 0.0: dropout is not supported")
    if is_causal is not False:
        options["is_causal"] = is_causal
    if scale is not None:
        options["scale"] = scale
    options.setdefault("alignment", "top_left")
    plain = _options.plain("scaled_dot_product_attention", options, number_of(context))
    if attn_mask is not None and plain.causal:
        raise InvalidArgument("attn_mask: given together with is_causal=True, expected one of them")
    layout = plain.layout
    q, k, v = operands((query, key, value), ("query", "key", "value"))
    mask, *others = extras({**options, "attn_mask": attn_mask}, q)
    _check(q, k, v)

    rank = max(q.ndim, k.ndim, v.ndim)
    q, k, v = (promote(in_order(x, layout), max(rank, 4)) for x in (q, k, v))
    q, k, v = _match_heads(q, k, v, enable_gqa)
    q, k, v, batch = _match_batches(q, k, v)
    if k.shape[-2] != v.shape[-2]:
        raise InvalidDimensions(
            f"value: {v.shape[-2]} rows, expected {k.shape[-2]} as in key with shape "
            f"{tuple(key.shape)}"
        )
    if len(batch) > 1 and any(x is not None for x in others[2:]):
        raise InvalidDimensions(
            f"query: shape {tuple(query.shape)}, expected rank 4 or less with lengths of sequences"
        )
    if others[2] is None:  # else the mask has the shape of the sequences
        check_mask(mask, (*batch, q.shape[-3], q.shape[-2], k.shape[-2]))
    if len(batch) == 1:
        out, logsumexp = call(q, k, v, (mask, *others), plain)
    else:
        out, logsumexp = _call_folded(q, k, v, mask, tuple(others), batch, plain)
    if rank < 4:
        out = out.reshape(out.shape[-rank:])
        logsumexp = logsumexp.reshape(logsumexp.shape[len(logsumexp.shape) + 1 - rank :])
    out = in_order(out, layout)
    return (out, logsumexp) if wanted else out


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for x, name in ((q, "query"), (k, "key"), (v, "value")):
        if x.ndim < 2:
            raise InvalidDimensions(f"{name}: shape {tuple(x.shape)}, expected rank 2 or more")
    if not q.dtype == k.dtype == v.dtype:
        names = (str(x.dtype).removeprefix("torch.") for x in (q, k, v))
        raise InvalidType(
            "query, key and value: dtypes {}, {} and {}, expected the same".format(*names)
        )
    if q.shape[-1] != k.shape[-1]:
        raise InvalidDimensions(
            f"key: shape {tuple(k.shape)}, expected {q.shape[-1]} columns as in query with shape "
            f"{tuple(q.shape)}"
        )


def _match_heads(q: Tensor, k: Tensor, v: Tensor, enable_gqa: bool) -> tuple[Tensor, ...]:
    """Gives k and v the same number of heads, of which that of q is a multiple."""
    hq, hk, hv = (x.shape[-3] for x in (q, k, v))
    if hq == hk == hv:
        return q, k, v
    if enable_gqa and hk and hv and hq % hk == 0 and hq % hv == 0:
        if hk == hv:
            return q, k, v
        # PyTorch repeats each to the heads of q; what they have in common is enough here.
        common = math.lcm(hk, hv)
        return q, k.repeat_interleave(common // hk, -3), v.repeat_interleave(common // hv, -3)
    heads = {size for size in (hq, hk, hv) if size != 1}
    if len(heads) > 1:
        hint = "a multiple of those of key and value" if enable_gqa else "the same, or enable_gqa"
        rows = [x.shape[-2] for x in (q, k, v)]
        grouped = enable_gqa and all(rows) and rows[0] % rows[1] == rows[0] % rows[2] == 0
        if hk == hv and (grouped or len({count for count in rows if count != 1}) <= 1):
            hint += '; did you mean layout="BNHD"?'
        raise InvalidDimensions(f"query, key and value: {hq}, {hk} and {hv} heads, expected {hint}")
    many = heads.pop() if heads else 1
    q = _expand(q, (*q.shape[:-3], many, *q.shape[-2:]))
    if hk == hv:
        return q, k, v
    k, v = (_expand(x, (*x.shape[:-3], many, *x.shape[-2:])) for x in (k, v))
    return q, k, v


def _match_batches(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Shape]:
    """Broadcasts the dimensions before the heads."""
    batches = [tuple(x.shape[:-3]) for x in (q, k, v)]
    if batches[0] == batches[1] == batches[2]:
        return q, k, v, batches[0]
    try:
        batch = tuple(torch.broadcast_shapes(*batches))
    except RuntimeError:
        raise InvalidDimensions(
            f"query, key and value: batches {batches[0]}, {batches[1]} and {batches[2]}, expected "
            "ones that broadcast"
        ) from None
    q, k, v = (_expand(x, (*batch, *x.shape[-3:])) for x in (q, k, v))
    return q, k, v, batch


def _expand(x: Tensor, shape: Shape) -> Tensor:
    """A view in which dimensions of size 1 repeat without a copy."""
    return x if tuple(x.shape) == shape else x.expand(*shape)


def _call_folded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    others: tuple[Tensor | None, ...],
    batch: Shape,
    plain: _options.Plain,
) -> tuple[Tensor, Tensor]:
    """Computes more than one batch dimension: as one where strides allow, else in several calls.

    What gets one scale for all of it is quantized in one call, whatever its strides.
    """
    tensors = [q, k, v]
    if mask is not None and mask.ndim > 3:
        tensors.append(_expand(mask, (*batch, *mask.shape[-3:])))
        mask = None
    one = 0 in batch or plain.shares_scales() or all(_folds(x, len(batch)) for x in tensors)
    if one:
        count = math.prod(batch)
        pieces = [[x.reshape(count, *x.shape[-3:]) for x in tensors]]
    else:
        places = itertools.product(*map(range, batch[:-1]))
        pieces = [[x[place] for x in tensors] for place in places]
    results = [
        call(q, k, v, (rest[0] if rest else mask, *others), plain) for q, k, v, *rest in pieces
    ]
    out, logsumexp = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*results))
    return out.reshape(*batch, *out.shape[1:]), logsumexp.reshape(*batch, *logsumexp.shape[1:])


def _folds(x: Tensor, dimensions: int) -> bool:
    """Whether the first dimensions can be viewed as one."""
    kept = [(size, stride) for size, stride in zip(x.shape[:dimensions], x.stride()) if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(kept))
