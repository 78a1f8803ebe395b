"""The large calls: every kind of storage and option, at sizes of real use."""

from __future__ import annotations

from typing import Any

from .large import Call
from .storage import BF16, BLOCK, BOOL, CHANNEL, FP16, FP32, INT4, INT8, ROW, Storage

_F32, _F16, _B16 = Storage(FP32), Storage(FP16), Storage(BF16)
_I8, _I4 = Storage(INT8), Storage(INT4)
_I8_ROW = Storage(INT8, ROW, zero_point_bytes=1)
_I4_GROUPS = Storage(INT4, ROW, group=32, half_scales=True)
_I8_GROUPS = Storage(INT8, ROW, group=64, half_scales=True)
_I8_CHANNEL = Storage(INT8, CHANNEL, block_rows=128)
_I8_BLOCK = Storage(INT8, BLOCK, block_rows=64, zero_point_bytes=4)
_I8_KIVI, _I4_KIVI = (
    Storage(INT8, CHANNEL, block_rows=32, half_scales=True),
    Storage(INT4, ROW, group=64),
)
_I8_TURNED = Storage(INT8, ROW, mean=True, rotated=True)
_I4_TURNED = Storage(INT4, ROW, rotated=True)

_PACKED = tuple((1024 - 13 * i, 1024 - 13 * i + 7 * (i % 5)) for i in range(48))


def _call(
    name: str,
    stored: Storage | tuple[Storage, Storage, Storage],
    size: tuple[int, int, int, int, int, int],
    **options: Any,
) -> Call:
    """`stored`: Q, K and V, or one for all of them.

    `size`: batches, heads, key heads, rows, keys, columns.
    """
    query, key, value = (stored,) * 3 if isinstance(stored, Storage) else stored
    return Call(name, query, key, value, *size, **options)


def calls() -> list[Call]:
    return [
        # Long sequences.
        _call("long fp16", _F16, (1, 2, 1, 32768, 32768, 64), causal=True, gradients=True),
        _call("long bf16", _B16, (1, 2, 1, 16384, 16384, 128), causal=True, gradients=True),
        _call("long fp32", _F32, (1, 1, 1, 16384, 16384, 64), gradients=True, given_output=True),
        _call("long int8", _I8, (1, 2, 1, 32768, 32768, 128), causal=True),
        _call(
            "long int4",
            (_F16, _I4, _I4),
            (1, 2, 1, 16384, 32768, 128),
            causal=True,
            bottom_right=True,
        ),
        _call("long window", _F16, (1, 4, 2, 32768, 32768, 64), window=(1023, 0), gradients=True),
        # Hundreds of heads.
        _call("heads fp16", _F16, (16, 32, 8, 512, 512, 64), causal=True, gradients=True),
        _call("heads fp32", _F32, (8, 32, 32, 512, 512, 64), gradients=True),
        _call(
            "heads bf16",
            _B16,
            (8, 32, 4, 512, 1024, 128),
            grad_output=BF16,
            output=BF16,
            gradients=True,
        ),
        _call("heads int8", _I8, (8, 32, 8, 512, 512, 128), causal=True, gradients=True),
        _call(
            "heads int4",
            (_F16, _I4, _I4),
            (8, 32, 8, 512, 512, 128),
            causal=True,
            gradients=True,
            clips=True,
        ),
        # Granularities.
        _call("rows", _I8_ROW, (2, 8, 4, 2048, 2048, 128), causal=True, gradients=True, clips=True),
        _call(
            "groups",
            (_F16, _I4_GROUPS, _I4_GROUPS),
            (2, 8, 4, 2048, 2048, 128),
            causal=True,
            gradients=True,
        ),
        _call("groups of int8", _I8_GROUPS, (2, 8, 4, 2048, 2048, 128), gradients=True),
        _call("channels", _I8_CHANNEL, (2, 8, 4, 2048, 2048, 64), gradients=True),
        _call("blocks", _I8_BLOCK, (2, 8, 4, 2048, 2048, 64), causal=True, gradients=True),
        _call(
            "channel keys, row values",
            (_F16, _I8_KIVI, _I4_KIVI),
            (2, 8, 2, 2048, 2048, 128),
            causal=True,
        ),
        _call(
            "rotated",
            (_F16, _I8_TURNED, _I4_TURNED),
            (2, 8, 4, 2048, 2048, 128),
            gradients=True,
            clips=True,
        ),
        _call("rotated query", _I8_TURNED, (2, 8, 4, 1024, 1024, 96), gradients=True),
        # Masks and the like.
        _call(
            "boolean mask",
            _F16,
            (4, 8, 8, 2048, 2048, 64),
            mask=BOOL,
            mask_shape=(4, 1, 2048, 2048),
            gradients=True,
        ),
        _call(
            "additive mask",
            _F16,
            (2, 8, 4, 2048, 2048, 64),
            mask=FP16,
            mask_shape=(1, 8, 2048, 2048),
            gradients=True,
        ),
        _call(
            "broadcast mask",
            (_F32, _I8, _I8),
            (4, 8, 4, 1024, 2048, 64),
            mask=FP32,
            mask_shape=(4, 1, 1, 2048),
            gradients=True,
        ),
        _call(
            "softcap, slopes, sinks",
            _F16,
            (4, 16, 4, 2048, 2048, 128),
            causal=True,
            softcap=20.0,
            slopes=True,
            sinks=True,
            gradients=True,
        ),
        _call(
            "packed",
            _F16,
            (1, 8, 2, sum((q for q, _ in _PACKED)), sum((k for _, k in _PACKED)), 64),
            causal=True,
            bottom_right=True,
            lengths=_PACKED,
            gradients=True,
        ),
        _call(
            "packed int8",
            (_F16, _I8_ROW, _I4_GROUPS),
            (1, 8, 2, sum((q for q, _ in _PACKED)), sum((k for _, k in _PACKED)), 64),
            lengths=_PACKED,
        ),
        _call(
            "key lengths",
            _B16,
            (16, 8, 2, 512, 4096, 128),
            causal=True,
            bottom_right=True,
            key_lengths=tuple(4096 - 251 * i for i in range(16)),
            gradients=True,
        ),
        # Head dimensions.
        _call("256 columns", _F16, (1, 8, 8, 2048, 2048, 256), causal=True, gradients=True),
        _call(
            "512 columns", (_F16, _I8, _I8), (1, 4, 2, 1024, 1024, 512), causal=True, gradients=True
        ),
        _call(
            "192 and 128 columns",
            _B16,
            (1, 16, 16, 2048, 2048, 192),
            value_columns=128,
            causal=True,
            gradients=True,
        ),
        # Decoding.
        _call("decode fp16", _F16, (1, 32, 8, 1, 32768, 128)),
        _call("decode bf16", _B16, (1, 32, 8, 1, 32768, 128)),
        _call("decode fp32", _F32, (1, 8, 8, 1, 32768, 64), sinks=True),
        _call("decode int8", (_F16, _I8, _I8), (2, 32, 8, 1, 32768, 128)),
        _call("decode int4", (_F16, _I4, _I4), (2, 32, 8, 1, 32768, 128)),
        _call("decode rows", (_F16, _I8_ROW, _I8_ROW), (1, 32, 8, 1, 32768, 128)),
        _call("decode groups", (_F16, _I4_GROUPS, _I4_GROUPS), (1, 32, 8, 1, 32768, 128)),
        _call("decode channels", (_F16, _I8_KIVI, _I4_KIVI), (1, 32, 8, 1, 32768, 128)),
        _call("decode rotated", (_F16, _I8_TURNED, _I4_TURNED), (1, 32, 8, 1, 16384, 128)),
        _call(
            "decode, many sequences",
            _F16,
            (128, 32, 8, 1, 2048, 128),
            key_lengths=tuple(2048 - 15 * i for i in range(128)),
        ),
        _call(
            "decode, many sequences of int8",
            (_B16, _I8_ROW, _I8_ROW),
            (128, 32, 8, 2, 2048, 64),
            causal=True,
            bottom_right=True,
        ),
        _call(
            "decode, window and softcap",
            _F16,
            (4, 16, 2, 2, 16384, 64),
            window=(4095, 0),
            bottom_right=True,
            softcap=30.0,
            slopes=True,
        ),
        # M1 and M2 have other tiles.
        _call(
            "heads fp16, M1",
            _F16,
            (4, 16, 4, 1024, 1024, 128),
            causal=True,
            gradients=True,
            family=7,
        ),
        _call(
            "groups, M1",
            (_F16, _I4_GROUPS, _I8_ROW),
            (2, 8, 4, 1024, 2048, 128),
            gradients=True,
            family=7,
        ),
    ]
