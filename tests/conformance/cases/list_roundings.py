"""Quantize and dequantize."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from reference.portable import normal

from .list_forward import QUANTIZED, _name
from .roundings import Rounding, bell, small_integers
from .views import Shape


def _ties(_: str, shape: Shape) -> NDArray:
    """Scale 2^-3 exactly, and every element half-way between two integers, but for the largest."""
    x = (np.arange(np.prod(shape)).reshape(shape) % 200 - 100 + 0.5) / 8
    x[..., 0] = 127 / 8
    return x


def _one_group_zero(name: str, shape: Shape) -> NDArray:
    x = bell(name, shape)
    x[:, :, 1] = 0
    return x


def _zero(_: str, shape: Shape) -> NDArray:
    return np.zeros(shape)


def _positive(name: str, shape: Shape) -> NDArray:
    return np.abs(bell(name, shape)) + 1


def _negative(name: str, shape: Shape) -> NDArray:
    return -_positive(name, shape)


def _tiny(name: str, shape: Shape) -> NDArray:
    return bell(name, shape) * 1e-30


def _smallest(name: str, shape: Shape) -> NDArray:
    """Normal numbers whose scale would be subnormal: few multiples of 2^-126."""
    return np.clip(np.rint(2 * normal(name, shape)), -6, 6) * 2.0**-126


def _huge(name: str, shape: Shape) -> NDArray:
    return bell(name, shape) * 1e30


def _numbers(text: str):
    return small_integers if "smooth" in text or "rotated" in text else bell


def quantize_cases() -> list[Rounding]:
    result = [
        # Columns 80 and rows 8: the block of the rotation is 16 and the mean is exact, so nothing
        # is in doubt.
        Rounding(f"quantize_{_name(text)}", text, (1, 2, 8, 80), values=_numbers(text))
        for text in QUANTIZED
    ]
    result += [
        Rounding(f"quantize_{source}_to_{_name(to)}", to, source=source)
        for source in ("fp16", "bf16")
        for to in ("int8", "int8/row", "int4/row", "int8/row+asym")
    ]
    result += [
        Rounding("quantize_ties", "int8/row", (1, 1, 4, 101), values=_ties),
        Rounding("quantize_zero", "int8", values=_zero),
        Rounding("quantize_zero_asym", "int8+asym", values=_zero),
        Rounding("quantize_zero_row", "int8/row", values=_one_group_zero),
        Rounding("quantize_zero_row_int4", "int4/row", values=_one_group_zero),
        Rounding("quantize_positive_asym", "int8/row+asym", values=_positive),
        Rounding("quantize_negative_asym", "int8/row+asym+zero32", values=_negative),
        Rounding(
            "quantize_positive_asym_int4", "int4/row:32+asym", (1, 2, 3, 64), values=_positive
        ),
        Rounding("quantize_tiny", "int8/row", values=_tiny),
        Rounding("quantize_smallest", "int8/row", values=_smallest),
        Rounding("quantize_smallest_asym", "int4/row+asym", values=_smallest),
        Rounding("quantize_huge", "int8/row", values=_huge),
        Rounding("quantize_one_element", "int8", (1, 1, 1, 1), values=_ties),
        Rounding("quantize_odd", "int8/row:32", (3, 1, 5, 37)),
        Rounding("quantize_no_rows", "int8/row", (1, 2, 0, 8)),
        Rounding("quantize_no_rows_tensor", "int8+asym", (1, 2, 0, 8)),
        Rounding("quantize_no_rows_mean", "int4+smooth", (1, 2, 0, 8)),
        Rounding(
            "quantize_padded",
            "int8/row",
            (2, 2, 3, 7),
            layouts={"source": "padded", "destination": "padded"},
        ),
        Rounding(
            "quantize_bnhd",
            "int8/block:2",
            (2, 2, 3, 7),
            layouts={"source": "bnhd", "destination": "bnhd"},
        ),
        Rounding(
            "quantize_transposed",
            "int8/channel:2",
            (2, 2, 3, 7),
            layouts={"source": "transposed", "destination": "transposed"},
        ),
        Rounding(
            "quantize_int4_padded",
            "int4/row",
            (2, 2, 3, 6),
            layouts={"source": "padded", "destination": "padded"},
        ),
        Rounding("quantize_shared_source", "int8/row", (1, 3, 4, 6), layouts={"source": "padded"}),
        Rounding("quantize_scale_given", "int8", scale_given=True),
        Rounding("quantize_scale_given_row", "int8/row", scale_given=True),
        Rounding("quantize_scale_given_asym", "int8/row+asym", scale_given=True),
        Rounding(
            "quantize_scale_given_int4", "int4/row:32+scale16", (1, 2, 3, 64), scale_given=True
        ),
        Rounding("quantize_mean_given", "int8/row+smooth", values=small_integers, mean_given=True),
        Rounding(
            "quantize_mean_given_rotated",
            "int4/row+smooth+rotated",
            values=small_integers,
            mean_given=True,
        ),
    ]
    return result


def dequantize_cases() -> list[tuple[Rounding, str]]:
    result = [
        (Rounding(f"dequantize_{_name(text)}", text, (1, 2, 7, 40)), "fp32") for text in QUANTIZED
    ]
    result += [
        (Rounding(f"dequantize_{_name(text)}_to_{to}", text, (1, 2, 3, 8)), to)
        for text in ("int8", "int4/row")
        for to in ("fp16", "bf16")
    ]
    layouts = {"source": "padded", "destination": "bnhd"}
    result += [
        (Rounding("dequantize_padded", "int8/row+asym", (2, 3, 4, 5), layouts=layouts), "fp32"),
        (
            Rounding("dequantize_padded_int4", "int4/row+asym", (2, 3, 4, 6), layouts=layouts),
            "fp32",
        ),
        (
            Rounding(
                "dequantize_transposed",
                "int8/channel:2",
                (2, 3, 4, 6),
                layouts={"source": "transposed", "destination": "padded"},
            ),
            "fp32",
        ),
        (
            Rounding(
                "dequantize_shared", "int8/block:2", (3, 1, 4, 6), layouts={"destination": "padded"}
            ),
            "fp32",
        ),
        (Rounding("dequantize_no_rows", "int8/row", (1, 2, 0, 8)), "fp32"),
    ]
    return result
