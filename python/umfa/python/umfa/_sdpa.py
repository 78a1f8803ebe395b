"""`torch.nn.functional.scaled_dot_product_attention`, on NumPy arrays as well as on tensors."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from umfa import _native
from umfa._errors import InvalidArgument, InvalidDimensions, InvalidType, Unsupported

_NAME = "scaled_dot_product_attention"
_NAMES = (("causal", "is_causal"), ("softmax_scale", "scale"))
"""What `attention` and torch call the same."""


class SDPA:
    """A callable with the signature and semantics of torch's scaled_dot_product_attention.

    It takes NumPy arrays as well as torch CPU tensors. Unlike in torch, rows without any key to
    attend to always give 0.

    Args:
        precision: None, "int8", "int4", or a mapping from "q", "k" and "v": how operands are
            quantized before the computation.
        context: an `MFAContext`; None is the default context.
        **options: granularity and what else goes with the precision, window, softcap, compute and
            the others of `attention`, but out and return_logsumexp. `causal` and `softmax_scale`
            are the defaults of `is_causal` and `scale`. The diagonal is torch's: alignment
            "top_left", unless it is given.

    Example:
        >>> import numpy as np, umfa
        >>> sdpa = umfa.SDPA(precision="int8", granularity="row")
        >>> x = np.ones((2, 4, 8, 16), np.float32)
        >>> sdpa(x, x, x, is_causal=True).shape
        (2, 4, 8, 16)
    """

    def __init__(
        self,
        precision: str | Mapping[str, str | None] | None = None,
        *,
        context: _native.MFAContext | None = None,
        **options: Any,
    ) -> None:
        given = options if precision is None else {"precision": precision, **options}
        _native._check_options(_NAME, given)
        for ours, theirs in _NAMES:
            if theirs in options:
                options[ours] = options.pop(theirs)
        self.precision = precision
        self.context = context
        self.options = options

    def __call__(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """Computes attention as torch.nn.functional.scaled_dot_product_attention does.

        Args:
            query: (..., Hq, L, E).
            key: (..., H, S, E); leading dimensions broadcast.
            value: (..., H, S, Ev).
            attn_mask: bool (True: attend) or float, broadcastable to (..., Hq, L, S).
            dropout_p: 0; dropout is not supported.
            is_causal: row i attends to key positions up to i. Not together with attn_mask.
            scale: None is 1 / sqrt(E).
            enable_gqa: let Hq be a multiple of H.

        Returns:
            (..., Hq, L, Ev), of query's library and dtype.
        """
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            context=self.context,
            precision=self.precision,
            **self.options,
        )

    def __repr__(self) -> str:
        settings = [f"precision={self.precision!r}"]
        settings += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"SDPA({', '.join(settings)})"


MetalSDPA = SDPA
"""The name that other packages of Metal attention give such a callable; it runs anywhere."""


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    context: _native.MFAContext | None = None,
    **options: Any,
) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention` on NumPy arrays and on tensors.

    Args:
        query: (..., Hq, L, E).
        key: (..., H, S, E); leading dimensions broadcast.
        value: (..., H, S, Ev).
        attn_mask: bool (True: attend) or float, broadcastable to (..., Hq, L, S).
        dropout_p: 0; dropout is not supported.
        is_causal: row i attends to key positions up to i. Not together with attn_mask.
        scale: None is 1 / sqrt(E).
        enable_gqa: let Hq be a multiple of H.
        context: an `MFAContext`; None is the default context.
        **options: those of `MetalSDPA`.

    Returns:
        (..., Hq, L, Ev), of query's library and dtype.

    Example:
        >>> import numpy as np, umfa
        >>> q, x = np.ones((2, 8, 5, 16), np.float32), np.ones((2, 2, 9, 16), np.float32)
        >>> umfa.sdpa(q, x, x, enable_gqa=True, window=(4, 0)).shape
        (2, 8, 5, 16)
    """
    if _is_tensor(query):
        from umfa.torch import scaled_dot_product_attention as on_tensors

        return on_tensors(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            context=context,
            **options,
        )
    if dropout_p != 0.0:
        raise Unsupported(f"dropout_p: {dropout_p}, expected 0.0: dropout is not supported")
    if attn_mask is not None and is_causal:
        raise InvalidArgument("attn_mask: given together with is_causal=True, expected one of them")
    q, k, v = _strided(query, "query"), _strided(key, "key"), _strided(value, "value")
    mask = None if attn_mask is None else _strided(attn_mask, "attn_mask")
    if not (q.dtype == k.dtype == v.dtype):
        raise InvalidType(
            f"query, key and value: dtypes {q.dtype}, {k.dtype} and {v.dtype}, expected the same"
        )
    if is_causal is not False:
        options["is_causal"] = is_causal
    if scale is not None:
        options["scale"] = scale
    if options.get("layout", "BHND") != "BHND":
        _native._check_options(_NAME, options)
        q, k, v = (x.swapaxes(-3, -2) if x.ndim > 2 else x for x in (q, k, v))
        del options["layout"]
        out = _attend_broadcast(q, k, v, mask, enable_gqa, context, options)
        return _hand_over(out.swapaxes(-3, -2) if out.ndim > 2 else out, query)
    return _hand_over(_attend_broadcast(q, k, v, mask, enable_gqa, context, options), query)


def _attend_broadcast(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    enable_gqa: bool,
    context: _native.MFAContext | None,
    options: dict[str, Any],
) -> Any:
    """Attention on [..., heads, rows, columns], whose leading dimensions broadcast."""
    if q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]:
        # Nothing to broadcast: by far the most frequent case, and the one whose overhead matters.
        if "cu_seqlens_q" not in options:
            check_mask(mask, (*q.shape[:-1], k.shape[-2]))
        return _native._sdpa(q, k, v, context, attn_mask=mask, **options)
    rank = max(q.ndim, k.ndim, v.ndim)
    q, k, v = (promote(x, max(rank, 4)) for x in (q, k, v))
    q, k, v = _match_heads(q, k, v, enable_gqa)
    q, k, v, batch = _match_batches(q, k, v)
    if "cu_seqlens_q" not in options:
        check_mask(mask, (*batch, q.shape[-3], q.shape[-2], k.shape[-2]))
    if len(batch) == 1:
        out = _native._sdpa(q, k, v, context, attn_mask=mask, **options)
    else:
        out = _attend_folded(q, k, v, mask, batch, context, options)
    return out if rank >= 4 else out.reshape(out.shape[-rank:])


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _strided(x: Any, name: str) -> Any:
    """A NumPy array over the memory of `x`."""
    if not isinstance(x, np.ndarray):
        try:
            x = np.from_dlpack(x)
        except (AttributeError, BufferError, TypeError):
            if not hasattr(x, "__array_interface__") and not hasattr(x, "__array_namespace__"):
                x = np.asarray(_memory(x, name))
            else:
                x = np.asarray(x)
    least = 1 if name == "attn_mask" else 2
    if x.ndim < least:
        raise InvalidDimensions(f"{name}: shape {tuple(x.shape)}, expected rank {least} or more")
    return x


def _memory(x: Any, name: str) -> memoryview:
    try:
        return memoryview(x)
    except TypeError:
        raise InvalidType(
            f"{name}: {type(x).__name__}, expected an array: NumPy, a torch CPU tensor, DLPack or "
            "the buffer protocol"
        ) from None


def _hand_over(out: Any, query: Any) -> Any:
    """Gives a NumPy result to the library that `query` came from."""
    if type(out) is type(query) or not hasattr(query, "__array_namespace__"):
        return out
    namespace = query.__array_namespace__()
    try:
        return namespace.from_dlpack(out)
    except (BufferError, RuntimeError, TypeError):  # NumPy cannot export bfloat16
        return namespace.asarray(out)


def promote(x: Any, rank: int) -> Any:
    """Puts dimensions of size 1 before those of an array or a tensor, to the rank."""
    return x if x.ndim == rank else x[(None,) * (rank - x.ndim)]


def _expand(x: Any, shape: Sequence[int]) -> Any:
    """A view in which dimensions of size 1 repeat without a copy."""
    if tuple(x.shape) == tuple(shape):
        return x
    return np.broadcast_to(x, shape)


def _match_heads(q: Any, k: Any, v: Any, enable_gqa: bool) -> tuple[Any, Any, Any]:
    """Gives k and v the same number of heads, of which that of q is a multiple."""
    heads = [x.shape[-3] for x in (q, k, v)]
    many = max(heads)
    if enable_gqa and 0 not in heads and heads[0] % heads[1] == 0 and heads[0] % heads[2] == 0:
        if heads[1] == heads[2]:
            return q, k, v
        # Torch repeats each to the heads of q; what they have in common is enough here.
        common = math.lcm(heads[1], heads[2])
        return q, _repeat_heads(k, common), _repeat_heads(v, common)
    if any(count not in (1, many) for count in heads):
        hint = "a multiple of those of key and value" if enable_gqa else "the same, or enable_gqa"
        rows = [x.shape[-2] for x in (q, k, v)]
        if all(count in (1, max(rows)) for count in rows) and heads[1] == heads[2]:
            hint += '; did you mean layout="BNHD"?'
        raise InvalidDimensions(
            f"query, key and value: {heads[0]}, {heads[1]} and {heads[2]} heads, expected {hint}"
        )
    q = _expand(q, (*q.shape[:-3], many, *q.shape[-2:]))
    if heads[1] == heads[2]:
        return q, k, v
    k, v = (_expand(x, (*x.shape[:-3], many, *x.shape[-2:])) for x in (k, v))
    return q, k, v


def _repeat_heads(x: Any, heads: int) -> Any:
    times = heads // x.shape[-3]
    if times == 1:
        return x
    return np.repeat(x, times, -3)


def _match_batches(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """Broadcasts the dimensions before the heads."""
    batches = [tuple(x.shape[:-3]) for x in (q, k, v)]
    if batches[0] == batches[1] == batches[2]:
        return q, k, v, batches[0]
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise InvalidDimensions(
            f"query, key and value: batches {batches[0]}, {batches[1]} and {batches[2]}, expected "
            "ones that broadcast"
        ) from None
    q, k, v = (_expand(x, (*batch, *x.shape[-3:])) for x in (q, k, v))
    return q, k, v, batch


def check_mask(mask: Any, scores: tuple[int, ...]) -> None:
    """Refuses a mask, an array or a tensor, that does not broadcast to the shape of the scores."""
    if mask is None:
        return
    shape = tuple(mask.shape)
    aligned = scores[len(scores) - len(shape) :] if len(shape) <= len(scores) else None
    fits = aligned and all(size in (1, full) for size, full in zip(shape, aligned))
    if not fits:
        raise InvalidDimensions(
            f"attn_mask: shape {shape}, expected one that broadcasts to {scores}"
        )


def _attend_folded(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    batch: tuple[int, ...],
    context: _native.MFAContext | None,
    options: dict[str, Any],
) -> Any:
    """Computes more than one batch dimension: as one where strides allow, else in several calls."""
    if mask is not None and mask.ndim > 3:
        mask = _expand(mask, (*batch, *mask.shape[-3:]))
    if 0 in batch or all(
        _folds(x, len(batch)) for x in (q, k, v, mask) if x is not None and x.ndim > 3
    ):
        count = math.prod(batch)
        q, k, v = (x.reshape(count, *x.shape[-3:]) for x in (q, k, v))
        if mask is not None and mask.ndim > 3:
            mask = mask.reshape(count, *mask.shape[-3:])
        out = _native._sdpa(q, k, v, context, attn_mask=mask, **options)
        return out.reshape(*batch, *out.shape[-3:])
    pieces = [
        _native._sdpa(
            q[index],
            k[index],
            v[index],
            context,
            attn_mask=mask[index] if mask is not None and mask.ndim > 3 else mask,
            **options,
        )
        for index in np.ndindex(*batch[:-1])
    ]
    stacked = np.stack(pieces)
    return stacked.reshape(*batch, *stacked.shape[-3:])


def _folds(x: Any, dimensions: int) -> bool:
    """Whether the first dimensions can be viewed as one."""
    kept = [(size, stride) for size, stride in zip(x.shape[:dimensions], x.strides) if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(kept))
