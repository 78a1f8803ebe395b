"""Calls that no door may take: each one thing that is wrong with a legal call.

An entry says it in the arguments of umfa.attention (doors with PyTorch's names translate), and where
that is possible in the descriptor of mfa_forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import contract
import numpy as np

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Wrong:
    python: Callable[[Arguments], Arguments] | None = None
    c: Callable[[contract.Forward, contract.Options], None] | None = None
    numpy_only: bool = False
    """It is said with something that only NumPy has."""


def put(**values: Any) -> Callable[[Arguments], Arguments]:
    """Adds arguments, or takes the place of them."""
    return lambda arguments: {**arguments, **values}


def of(name: str, change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """Changes an array."""
    return lambda arguments: {**arguments, name: change(arguments[name])}


def both(change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """Changes keys and values."""
    return lambda arguments: {**arguments, **{name: change(arguments[name]) for name in "kv"}}


def descriptor(**values: Any) -> Callable[[contract.Forward, contract.Options], None]:
    """Sets fields: `key__shape` with (axis, change), or plain ones of the options."""

    def change(desc: contract.Forward, options: contract.Options) -> None:
        for name, value in values.items():
            if "__" in name:
                tensor, field = name.split("__")
                owner = desc if hasattr(desc, tensor) else options
                axis, by = value
                getattr(getattr(owner, tensor), field)[axis] += by
            else:
                setattr(options, name, value)

    return change


def _windows(left: int, right: int) -> Callable[[contract.Forward, contract.Options], None]:
    return descriptor(flags=contract.WINDOW, window_left=left, window_right=right)


def _scale(value: float) -> Callable[[contract.Forward, contract.Options], None]:
    return descriptor(flags=contract.SCALE, softmax_scale=value)


def _precision(desc: contract.Forward, _: contract.Options) -> None:
    desc.key.precision = 3


def _no_buffer(desc: contract.Forward, _: contract.Options) -> None:
    desc.value.buffer = None


def _short_options(desc: contract.Forward, options: contract.Options) -> None:
    options.struct_size = 50
    desc.struct_size = 490


def _reserved(_: contract.Forward, options: contract.Options) -> None:
    options.reserved = 1


def _int8_without_scales(desc: contract.Forward, _: contract.Options) -> None:
    desc.key.precision = 8


def _ends(*values: int) -> Callable[[Arguments], Arguments]:
    ends = np.array(values, np.int32)
    return put(cu_seqlens_q=ends, cu_seqlens_k=np.array([0, 2, 6], np.int32))


# The legal call: q [2, 4, 5, 8], k and v [2, 2, 6, 8], FP32.
WRONG: dict[str, Wrong] = {
    # Shapes.
    "fewer columns in k": Wrong(of("k", lambda k: k[..., :-1]), descriptor(key__shape=(3, -1))),
    "fewer rows in v": Wrong(of("v", lambda v: v[:, :, :-1]), descriptor(value__shape=(2, -1))),
    "3 heads in k for 4": Wrong(
        of("k", lambda k: np.concatenate([k, k[:, :1]], axis=1)), descriptor(key__shape=(1, 1))
    ),
    "no heads in k and v": Wrong(both(lambda x: x[:, :0])),
    "3 heads for 2": Wrong(of("q", lambda q: q[:, :3])),
    "another batch": Wrong(of("q", lambda q: q[[0, 1, 1]])),
    "no columns in v": Wrong(c=descriptor(value__shape=(3, -8), output__shape=(3, -8))),
    "rank 1": Wrong(of("q", lambda q: q[0, 0, 0])),
    "rank 0": Wrong(of("k", lambda k: k[0, 0, 0, 0])),
    "a negative stride in C": Wrong(c=descriptor(query__strides=(2, -100))),
    "an output that overlaps": Wrong(c=descriptor(output__strides=(2, -8))),
    "more rows than the buffer": Wrong(c=descriptor(key__shape=(2, 1000), value__shape=(2, 1000))),
    # Types.
    "integers": Wrong(of("q", lambda q: q.astype(np.int32)), _precision, numpy_only=True),
    "complex numbers": Wrong(both(lambda x: x.astype(np.complex64)), numpy_only=True),
    "bool": Wrong(of("v", lambda v: v > 0)),
    "text": Wrong(put(k="key")),
    "None": Wrong(put(v=None), _no_buffer),
    "bare INT8": Wrong(of("k", lambda k: k.astype(np.int8)), _int8_without_scales, numpy_only=True),
    "short structs": Wrong(c=_short_options),
    "reserved": Wrong(c=_reserved),
    # Masks.
    "a mask for other keys": Wrong(put(attn_mask=np.ones((5, 7), bool))),
    "a mask for other heads": Wrong(put(attn_mask=np.ones((1, 3, 5, 6), np.float32))),
    "a mask of rank 6": Wrong(put(attn_mask=np.ones((1, 1, 1, 1, 5, 6), bool))),
    "a mask of uint8": Wrong(put(attn_mask=np.ones((5, 6), np.uint8))),
    "a mask of int64": Wrong(put(attn_mask=np.ones((5, 6), np.int64))),
    "a mask of complex numbers": Wrong(put(attn_mask=np.ones((5, 6), np.complex64))),
    "a mask of text": Wrong(put(attn_mask="causal")),
    # Options.
    "an unknown option": Wrong(put(casual=True), descriptor(flags=8)),
    "an unknown alignment": Wrong(put(alignment="middle"), descriptor(alignment=2)),
    "an unknown compute": Wrong(put(compute="quick"), descriptor(compute=-1)),
    "an unknown layout": Wrong(put(layout="BDHN")),
    "a negative window": Wrong(put(window=(-5, 0)), _windows(-5, 0)),
    "a negative window on the right": Wrong(put(window=(0, -2)), _windows(0, -2)),
    "a negative number as window": Wrong(put(window=-3)),
    "a window of three": Wrong(put(window=(1, 2, 3))),
    "a window of text": Wrong(put(window="wide")),
    "a window of 10^30": Wrong(put(window=10**30)),
    "a window of a half": Wrong(put(window=(0.5, 1))),
    "a window without its flag": Wrong(c=descriptor(window_left=3)),
    "a scale without its flag": Wrong(c=descriptor(softmax_scale=0.5)),
    "a negative softcap": Wrong(put(softcap=-1.0), descriptor(softcap=-1.0)),
    "a softcap of NaN": Wrong(put(softcap=float("nan")), descriptor(softcap=float("nan"))),
    "an infinite softcap": Wrong(put(softcap=float("inf")), descriptor(softcap=float("inf"))),
    "a softcap that is 0 in FP32": Wrong(put(softcap=1e-50)),
    "a softcap of text": Wrong(put(softcap="30")),
    "a scale of NaN": Wrong(put(softmax_scale=float("nan")), _scale(float("nan"))),
    "an infinite scale": Wrong(put(softmax_scale=float("-inf")), _scale(float("-inf"))),
    "a scale beyond FP32": Wrong(put(softmax_scale=1e300)),
    "a scale of text": Wrong(put(softmax_scale="big")),
    "causal of text": Wrong(put(causal="no")),
    "sinks for other heads": Wrong(put(sinks=np.zeros(3, np.float32))),
    "sinks of rank 2": Wrong(put(sinks=np.zeros((3, 4), np.float32))),
    "slopes for other heads": Wrong(put(alibi_slopes=np.zeros(3, np.float32))),
    "slopes for another batch": Wrong(put(alibi_slopes=np.zeros((3, 4), np.float32))),
    # Packed sequences.
    "one cu_seqlens": Wrong(put(cu_seqlens_q=np.array([0, 5], np.int32))),
    "cu_seqlens and a batch": Wrong(_ends(0, 2, 5), descriptor(sequence_count=2)),
    "cu_seqlens that fall": Wrong(
        lambda a: _ends(0, 6, 5)({**a, **{name: a[name][:1] for name in "qkv"}})
    ),
    "cu_seqlens from 1": Wrong(
        lambda a: _ends(1, 2, 5)({**a, **{name: a[name][:1] for name in "qkv"}})
    ),
    "cu_seqlens beyond the rows": Wrong(
        lambda a: _ends(0, 2, 9)({**a, **{name: a[name][:1] for name in "qkv"}})
    ),
    "cu_seqlens of two numbers": Wrong(
        lambda a: {
            **a,
            **{name: a[name][:1] for name in "qkv"},
            "cu_seqlens_q": np.array([0, 2, 5], np.int32),
            "cu_seqlens_k": np.array([0, 6], np.int32),
        }
    ),
    # How operands are quantized.
    "an unknown precision": Wrong(put(precision="int2")),
    "precision of an unknown operand": Wrong(put(precision={"w": "int8"})),
    "an unknown granularity": Wrong(put(precision="int8", granularity="column")),
    "granularity without precision": Wrong(put(granularity="row")),
    "rotation without precision": Wrong(put(rotate=True)),
    "smoothing without precision": Wrong(put(smooth=True)),
    "a group without precision": Wrong(put(group=32)),
    "groups of 16": Wrong(put(precision="int8", granularity="row", group=16)),
    "groups of a tensor": Wrong(put(precision="int8", granularity="tensor", group=32)),
    "blocks of no rows": Wrong(put(precision="int8", granularity="block", block_rows=0)),
    "an unknown scale dtype": Wrong(put(precision="int8", scale_dtype="float8")),
}
