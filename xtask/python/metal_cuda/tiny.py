"""The large calls and roundings at small sizes, for host.py and for sanitizers.

Storage, options and kernels are the same.
"""

from __future__ import annotations

from dataclasses import replace

from . import large, large_list, rounding


def calls(rows: int = 40, keys: int = 72) -> list[large.Call]:
    return [shrunk(call, rows, keys) for call in large_list.calls()]


def shrunk(call: large.Call, rows: int, keys: int) -> large.Call:
    batches, key_heads = min(call.batches, 2), min(call.key_heads, 2)
    heads = key_heads * min(call.heads // call.key_heads, 2)
    rows, keys = min(call.rows, rows), min(call.keys, keys)
    lengths: tuple[tuple[int, int], ...] = ()
    if call.lengths:
        lengths = ((9, 20), (0, 3), (rows, keys - keys // 3), (5, 0))
        rows, keys = sum(q for q, _ in lengths), sum(k for _, k in lengths)
    if call.rows == 1 and call.keys > 8192:
        # Enough for two splits.
        keys = max(keys, 600)
    mask_shape = call.mask_shape
    if mask_shape:
        full = (batches, heads, rows, keys)
        mask_shape = tuple(1 if size == 1 else full[axis] for axis, size in enumerate(mask_shape))  # type: ignore[assignment]
    window = (11, call.window[1]) if call.window else None
    return replace(
        call,
        batches=batches,
        heads=heads,
        key_heads=key_heads,
        rows=rows,
        keys=keys,
        lengths=lengths,
        window=window,
        mask_shape=mask_shape,
        key_lengths=tuple(keys - 17 * b for b in range(batches)) if call.key_lengths else (),
    )


def roundings() -> list[rounding.Call]:
    return [replace(call, shape=(1, 2, 256, call.shape[3])) for call in rounding.calls()]
