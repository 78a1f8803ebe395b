"""A case as the arguments of umfa.attention, which the Python doors share."""

from __future__ import annotations

from typing import Any

import numpy as np
from case import Case
from description import Stored

import umfa


def shaped(x: np.ndarray, case: Case, *, heads_first: bool) -> np.ndarray:
    """[batch, heads, rows, columns] in the rank and layout that the call asks for.

    In rank 3, `heads_first` says that the first dimension is the heads, as in PyTorch.
    """
    call = case.call
    if call.rank == 5:
        return x.reshape(*call.batch, *x.shape[1:])
    if call.layout == "BNHD":
        x = x.swapaxes(1, 2)
        return x[0] if call.rank == 3 else x
    if call.rank == 2:
        return x[0, 0]
    if call.rank == 3:
        return x[0] if heads_first or call.lengths is not None else x[:, 0]
    return x


def plain(x: Any, case: Case, columns: int) -> np.ndarray:
    """A result of the call's rank and layout as [batch, heads, rows, columns]."""
    x, call = np.asarray(x), case.call
    if call.layout == "BNHD":
        x = (x[None] if call.rank == 3 else x).swapaxes(1, 2)
    return x.reshape(case.batch, -1 if x.size else call.heads, case.rows, columns)


def ranks_fit(case: Case, *, heads_first: bool) -> str | None:
    """Why a call of rank 3 cannot be said, or None."""
    call = case.call
    if call.rank == 3:
        first_is_heads = heads_first or call.lengths is not None or call.layout == "BNHD"
        if first_is_heads and case.batch != 1:
            return "rank 3 has no batch here"
        if not first_is_heads and (call.heads, call.kv_heads) != (1, 1):
            return "rank 3 has no heads here"
    return None


def operands(case: Case, *, heads_first: bool = False, prepared: bool = False) -> dict[str, Any]:
    """q, k and v: floats, or with `prepared` tensors that were quantized before."""
    result: dict[str, Any] = {}
    for name, stored in case.call.operands.items():
        if stored.integer and prepared:
            result[name] = quantized(case, name, stored)
        else:
            result[name] = shaped(case.floats[name], case, heads_first=heads_first)
    return result


def quantized(case: Case, name: str, stored: Stored) -> umfa.QuantizedTensor:
    tensor = case.quantized[name]
    data = tensor.data
    if stored.precision == "int4":
        pairs = data.astype(np.uint8) & 0xF
        data = pairs[..., 0::2] | (pairs[..., 1::2] << 4)
    blocked = stored.granularity in ("block", "channel")
    scale = tensor.scale.astype(np.float16 if stored.scale16 else np.float32)
    zero_point: Any = None if stored.symmetric else tensor.zero_point.astype(np.int8)
    if stored.granularity == "tensor":
        scale = scale.reshape(())
        zero_point = None if zero_point is None else zero_point.reshape(())
    return umfa.QuantizedTensor(
        np.ascontiguousarray(data),
        scale,
        zero_point,
        tensor.mean,
        precision=stored.precision,  # type: ignore[arg-type]
        granularity=stored.granularity,  # type: ignore[arg-type]
        block_rows=stored.block_rows if blocked else None,
        group=stored.group,  # type: ignore[arg-type]
        rotated=stored.rotate,
    )


def options(case: Case) -> dict[str, Any]:
    """The options of a call, without those that are as by default."""
    call, result = case.call, {}
    if call.causal:
        result["causal"] = True
    if call.diagonal:
        result["alignment"] = call.alignment
    if call.window is not None:
        result["window"] = tuple(None if side < 0 else side for side in call.window)
    if call.softcap:
        result["softcap"] = call.softcap
    if call.scale is not None:
        result["softmax_scale"] = call.scale
    if case.mask is not None and call.mask is not None:
        mask = case.mask
        for _ in range(4 - call.mask.rank):
            mask = mask[0]
        if call.rank == 5 and mask.ndim == 4 and mask.shape[0] != 1:
            mask = mask.reshape(*call.batch, *mask.shape[1:])
        result["attn_mask"] = mask
    if case.options.alibi_slopes is not None:
        slopes = case.options.alibi_slopes.astype(np.float32)
        result["alibi_slopes"] = slopes[0] if call.slopes == "h" else slopes
    if case.options.sinks is not None:
        result["sinks"] = case.options.sinks.astype(np.float32)
    if call.lengths is not None:
        result["cu_seqlens_q"], result["cu_seqlens_k"] = case.ends
    if call.key_lengths is not None:
        result["seqlens_k"] = np.array(call.key_lengths, np.int32)
    if call.layout != "BHND":
        result["layout"] = call.layout
    return result


def quantizing(case: Case) -> dict[str, Any]:
    """The options that quantize float operands as the case stores them."""
    stored = {name: x for name, x in case.call.operands.items() if x.integer}

    def each(value: Any) -> dict[str, Any]:
        return {name: value(x) for name, x in stored.items()}

    result = {
        "precision": each(lambda x: x.precision),
        "granularity": each(lambda x: x.granularity),
        "symmetric": each(lambda x: x.symmetric),
        "scale_dtype": each(lambda x: "float16" if x.scale16 else "float32"),
        "rotate": each(lambda x: x.rotate),
    }
    blocked = {n: x.block_rows for n, x in stored.items() if x.granularity in ("block", "channel")}
    grouped = {n: x.group for n, x in stored.items() if x.group is not None}
    if blocked:
        result["block_rows"] = blocked
    if grouped:
        result["group"] = grouped
    if case.call.k.integer and case.call.k.smooth:
        result["smooth"] = {"k": True}
    return result


def quantizes(case: Case) -> str | None:
    """Why a door that quantizes by itself cannot make the call, or None."""
    if case.poisoned_scales:
        return "scales of NaN are nothing that quantizing makes"
    if case.hidden is not None and case.hidden.any():
        return "NaN cannot be quantized"
    return None
