"""The key range of each query row, and the bias that is added to its scores (eq. 3 to 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import BOTTOM_RIGHT, Options


@dataclass(frozen=True)
class Positions:
    """Where rows stand: sequence and place within it; without varlen there is one sequence."""

    sequence_q: NDArray[np.intp]
    row: NDArray[np.intp]
    diagonal: NDArray[np.intp]
    """i + shift: the key position at which query row i stands."""
    sequence_k: NDArray[np.intp]
    column: NDArray[np.intp]


def positions(options: Options, rows_q: int, rows_k: int) -> Positions:
    lengths = options.lengths if options.lengths is not None else [(rows_q, rows_k)]
    sequence_q = np.repeat(np.arange(len(lengths)), [q for q, _ in lengths])
    sequence_k = np.repeat(np.arange(len(lengths)), [k for _, k in lengths])
    row = np.concatenate([np.arange(q) for q, _ in lengths])
    column = np.concatenate([np.arange(k) for _, k in lengths])
    shift = np.array([k - q if options.alignment == BOTTOM_RIGHT else 0 for q, k in lengths])
    return Positions(sequence_q, row, row + shift[sequence_q], sequence_k, column)


def visible(options: Options, rows_q: int, rows_k: int) -> NDArray[np.bool_]:
    """[rows of query, rows of key]: what varlen, causal and window leave, before any mask."""
    at = positions(options, rows_q, rows_k)
    diagonal, column = at.diagonal[:, None], at.column[None, :]
    result = at.sequence_q[:, None] == at.sequence_k[None, :]
    if options.causal:
        result = result & (column <= diagonal)
    if options.window is not None:
        left, right = options.window
        if left >= 0:
            result = result & (column >= diagonal - left)
        if right >= 0:
            result = result & (column <= diagonal + right)
    return result


def mask_index(
    mask_shape: tuple[int, ...], options: Options, rows_q: int, rows_k: int, batch: int, heads: int
):
    """Index arrays of the mask's elements that broadcast to [batch, heads, rows_q, rows_k].

    A dimension of size 1 is broadcast. Where query and key belong to different sequences the
    index is meaningless (but legal): visible() is false there.
    """
    at = positions(options, rows_q, rows_k)
    varlen = options.lengths is not None
    outer = at.sequence_q[None, None, :, None] if varlen else np.arange(batch)[:, None, None, None]
    index = [
        outer,
        np.arange(heads)[None, :, None, None],
        at.row[None, None, :, None],
        at.column[None, None, None, :],
    ]
    return tuple(i if size > 1 else np.zeros_like(i) for i, size in zip(index, mask_shape))


def bias(options: Options, batch: int, heads: int, rows_q: int, rows_k: int):
    """(bias, visible), both [batch, heads, rows_q, rows_k].

    A key is masked out where it is not visible, where a BOOL mask is false, and where an additive
    mask is -infinity: mfa.h defines the first two as a bias of -infinity. The bias is 0 there, and
    must not be used.
    """
    shape = (batch, heads, rows_q, rows_k)
    seen = np.broadcast_to(visible(options, rows_q, rows_k), shape).copy()
    value = np.zeros(shape)
    if options.mask is not None:
        mask = options.mask[mask_index(options.mask.shape, options, rows_q, rows_k, batch, heads)]
        if mask.dtype == np.bool_:
            seen &= mask
        else:
            seen &= mask != -np.inf
            value = value + np.where(seen, mask, 0.0)
    if options.alibi_slopes is not None:
        at = positions(options, rows_q, rows_k)
        distance = np.abs(at.diagonal[:, None] - at.column[None, :])
        value = value - options.alibi_slopes[:, :, None, None] * distance
    return np.where(seen, value, 0.0), seen
