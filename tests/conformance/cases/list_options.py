"""Causal, window, sinks, softcap, ALiBi, masks, varlen, and numbers that are hard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from reference.problem import BOTTOM_RIGHT, TOP_LEFT

from .attention import Attention, Mask

INT8 = {"q": "int8/row", "k": "int8/row", "v": "int8"}
ALIGNMENTS = {"top_left": TOP_LEFT, "bottom_right": BOTTOM_RIGHT}


def _positions() -> list[Attention]:
    result = []
    for name, alignment in ALIGNMENTS.items():
        for nq, nk in ((5, 9), (9, 5), (8, 8), (1, 6), (6, 1), (35, 70)):
            shape = {"nq": nq, "nk": nk, "alignment": alignment}
            result.append(Attention(f"causal_{name}_{nq}x{nk}", causal=True, **shape))
            result.append(Attention(f"alibi_{name}_{nq}x{nk}", alibi="1h", batch=2, **shape))
            for left, right in ((0, 0), (2, 1), (-1, 1), (3, -1), (-1, -1), (1000, 0)):
                if (nq, nk) in ((5, 9), (9, 5), (35, 70)) and (nq < 35 or left == 2):
                    window = f"{left}_{right}".replace("-1", "all")
                    result.append(
                        Attention(
                            f"window_{window}_{name}_{nq}x{nk}", window=(left, right), **shape
                        )
                    )
    result += [
        Attention("window_causal", window=(3, 4), causal=True, nq=9, nk=12, alignment=BOTTOM_RIGHT),
        Attention("window_beyond_keys", window=(1, 1), nq=9, nk=3),
        Attention("window_int8", window=(6, 0), causal=True, nq=40, nk=40, d=16, grad=None, **INT8),
        Attention(
            "causal_int8_decode", causal=True, alignment=BOTTOM_RIGHT, nq=3, nk=50, d=16, **INT8
        ),
        Attention("alibi_per_batch", alibi="bh", batch=2, causal=True, nq=6),
        Attention("alibi_int8", alibi="1h", nq=6, nk=40, d=16, grad=None, **INT8),
    ]
    return result


def _scores() -> list[Attention]:
    sinks = {"sinks": True, "heads": 4, "kv_heads": 2}
    return [
        Attention("scale_given", scale=0.125),
        Attention("scale_negative", scale=-0.5),
        Attention("scale_zero", scale=0.0),
        Attention("softcap_2", softcap=2.0, spread=2.0),
        Attention("softcap_50", softcap=50.0, spread=5.0),
        Attention("softcap_int8", softcap=3.0, d=16, nk=20, **INT8),
        Attention("softcap_mask", softcap=1.0, mask=Mask("fp32", "bhqk")),
        Attention("sinks", **sinks),
        Attention("sinks_batch_causal", batch=2, causal=True, nq=9, **sinks),
        Attention("sinks_int8", d=16, nk=20, q="int8", k="int8/row", v="int8/row", **sinks),
        Attention("sinks_fully_masked_row", mask=Mask("bool", "bhqk", full_rows=(1,)), **sinks),
        Attention(
            "sinks_large", edit=lambda t: t.update(sinks=t["sinks"] + np.float32(20)), **sinks
        ),
        Attention("sinks_softcap_window", softcap=1.5, window=(2, 2), nq=9, nk=9, **sinks),
        Attention(
            "everything",
            batch=2,
            nq=9,
            nk=13,
            softcap=2.0,
            causal=True,
            window=(6, 0),
            alignment=BOTTOM_RIGHT,
            mask=Mask("fp32", "b1qk", full_rows=(4,)),
            alibi="1h",
            k="int8/row",
            v="int8/block:4",
            **sinks,
        ),
    ]


def _masks() -> list[Attention]:
    result = []
    for precision in ("bool", "fp32", "fp16", "bf16"):
        for dims in (
            "bhqk",
            "b1qk",
            "1hqk",
            "11qk",
            "b11k",
            "111k",
            "bhq1",
            "11q1",
            "1h11",
            "0hqk",
            "b0qk",
            "bh0k",
            "bhq0",
            "000k",
            "0000",
        ):
            if precision in ("fp16", "bf16") and dims not in ("bhqk", "11qk", "b11k"):
                continue
            result.append(
                Attention(f"mask_{precision}_{dims}", batch=2, mask=Mask(precision, dims))
            )
    result += [
        Attention("mask_bool_full_rows", mask=Mask("bool", "bhqk", full_rows=(0, 2)), nq=5),
        Attention("mask_bool_all", mask=Mask("bool", "11qk", hidden=1.1)),
        Attention("mask_bool_none", mask=Mask("bool", "11qk", hidden=0.0)),
        Attention("mask_fp32_full_rows", mask=Mask("fp32", "bhqk", full_rows=(1, 4)), nq=5),
        Attention("mask_fp32_all_hidden", mask=Mask("fp32", "111k", hidden=1.1)),
        Attention(
            "mask_bool_int8", mask=Mask("bool", "bhqk", full_rows=(1,)), nq=9, nk=33, d=16, **INT8
        ),
        Attention(
            "mask_bool_int4_gqa",
            mask=Mask("bool", "b11k"),
            batch=2,
            heads=6,
            kv_heads=2,
            nk=33,
            d=16,
            k="int4/row",
            v="int4",
        ),
        Attention(
            "mask_fp32_causal_full_rows",
            mask=Mask("fp32", "1hqk"),
            causal=True,
            alignment=BOTTOM_RIGHT,
            nq=9,
            nk=4,
        ),
        Attention("mask_over_tiles", mask=Mask("bool", "11qk", hidden=0.9), nq=37, nk=131, heads=1),
        Attention(
            "mask_fp16_over_tiles", mask=Mask("fp16", "1hqk", hidden=0.6), nq=37, nk=70, heads=1
        ),
        Attention(
            "mask_fp32_padded",
            mask=Mask("fp32", "bhqk"),
            batch=2,
            layouts={"mask": "padded", "grad_mask": "padded"},
        ),
        Attention(
            "mask_bool_padded", mask=Mask("bool", "bhqk"), batch=2, layouts={"mask": "padded"}
        ),
        Attention(
            "mask_fp32_transposed",
            mask=Mask("fp32", "bhqk"),
            batch=2,
            layouts={"mask": "transposed"},
        ),
        Attention("mask_bool_bnhd", mask=Mask("bool", "bhqk"), batch=2, layouts={"mask": "bnhd"}),
        Attention("mask_gradient_alone", mask=Mask("fp32", "1hq1"), batch=2, wanted=("mask",)),
        Attention(
            "mask_large",
            mask=Mask("fp32", "11qk"),
            edit=lambda t: t.update(mask=np.where(t["mask"] > -9, t["mask"] * 1e4, t["mask"])),
        ),
    ]
    return result


def _varlen() -> list[Attention]:
    short = ((3, 4), (0, 2), (5, 0), (0, 0), (7, 6), (1, 9))
    long = ((13, 13), (1, 33), (40, 5), (2, 70))
    return [
        Attention("varlen", lengths=short),
        Attention("varlen_one", lengths=((5, 7),)),
        Attention("varlen_all_empty", lengths=((0, 0), (0, 0))),
        Attention("varlen_causal", lengths=short, causal=True),
        Attention("varlen_causal_bottom_right", lengths=short, causal=True, alignment=BOTTOM_RIGHT),
        Attention("varlen_window", lengths=short, window=(2, 0), alignment=BOTTOM_RIGHT),
        Attention(
            "varlen_gqa_tiles",
            lengths=long,
            heads=4,
            kv_heads=2,
            causal=True,
            alignment=BOTTOM_RIGHT,
        ),
        Attention("varlen_int8", lengths=long, d=16, k="int8/row", v="int8/block:16", q="int8/row"),
        Attention("varlen_int4", lengths=long, d=16, k="int4/channel:32", v="int4/row", grad=None),
        Attention(
            "varlen_alibi_sinks", lengths=short, alibi="1h", sinks=True, alignment=BOTTOM_RIGHT
        ),
        Attention("varlen_mask_bool", lengths=short, mask=Mask("bool", "bhqk")),
        Attention("varlen_mask_fp32", lengths=short, mask=Mask("fp32", "b1qk"), softcap=2.0),
        Attention("varlen_mask_keys", lengths=short, mask=Mask("fp32", "b11k")),
        Attention("varlen_mask_rows_shared", lengths=short, mask=Mask("fp32", "11qk")),
        Attention(
            "varlen_decode",
            lengths=((1, 9), (1, 1), (1, 33), (1, 0)),
            causal=True,
            alignment=BOTTOM_RIGHT,
        ),
        Attention(
            "varlen_padded",
            lengths=short,
            layouts=dict.fromkeys(("query", "key", "value", "output"), "padded"),
        ),
        Attention(
            "varlen_bnhd",
            lengths=short,
            layouts=dict.fromkeys(("query", "key", "value", "output"), "bnhd"),
        ),
    ]


def _put(role: str, at: tuple, value: float):
    def edit(tensors: dict[str, NDArray]) -> None:
        tensors[role][at] = value

    return edit


def _hide_and_poison(value: float, roles: tuple[str, ...] = ("key", "value")):
    """Keys 2 and 5 are masked out and hold `value` everywhere."""

    def edit(tensors: dict[str, NDArray]) -> None:
        mask = tensors["mask"]
        hidden = False if mask.dtype == np.bool_ else -np.inf
        mask[...] = True if mask.dtype == np.bool_ else 0.25
        mask[..., [2, 5]] = hidden
        for role in roles:
            tensors[role][:, :, [2, 5]] = value

    return edit


def _poison_beyond(row: int, value: float):
    """Keys from `row` on hold `value`: causal or window keeps them out."""

    def edit(tensors: dict[str, NDArray]) -> None:
        for role in ("key", "value"):
            tensors[role][:, :, row:] = value

    return edit


def _infinite_score(tensors: dict[str, NDArray]) -> None:
    """Row 2's score with key 3."""
    tensors["query"][0, 0, 2] = 1.0
    tensors["key"][0, 0, 3] = np.inf


def _half_visible(tensors: dict[str, NDArray]) -> None:
    """Key 3's value is NaN in column 1; only rows 3 and above see it."""
    tensors["value"][:, :, 3, 1] = np.nan


def _hard_numbers() -> list[Attention]:
    nan, inf = float("nan"), float("inf")
    result = [
        Attention("nan_in_a_query", edit=_put("query", (0, 0, 2, 1), nan), grad=None),
        Attention("nan_in_a_key", edit=_put("key", (0, 1, 2, 1), nan), grad=None),
        Attention(
            "nan_in_a_key_causal", edit=_put("key", (0, 1, 3, 1), nan), causal=True, nq=7, grad=None
        ),
        Attention("nan_in_a_value", edit=_put("value", (0, 1, 2, 1), nan), grad=None),
        Attention("nan_in_a_value_causal", edit=_half_visible, causal=True, nq=7, grad=None),
        Attention(
            "nan_in_a_value_causal_fp16",
            edit=_half_visible,
            causal=True,
            nq=7,
            grad=None,
            q="fp16",
            k="fp16",
            v="fp16",
        ),
        Attention(
            "nan_in_a_value_causal_int8_keys",
            edit=_half_visible,
            causal=True,
            nq=7,
            grad=None,
            q="int8",
            k="int8",
        ),
        Attention(
            "nan_in_a_mask",
            mask=Mask("fp32", "11qk", hidden=0.0),
            edit=_put("mask", (0, 0, 1, 1), nan),
            grad=None,
        ),
        Attention("infinity_in_a_value", edit=_put("value", (0, 0, 2, 1), inf), grad=None),
        Attention(
            "minus_infinity_in_a_value_causal",
            edit=_put("value", (0, 0, 2, 1), -inf),
            causal=True,
            nq=7,
            grad=None,
        ),
        Attention(
            "infinite_score", edit=_infinite_score, grad=None, logsumexp=False, causal=True, nq=3
        ),
        Attention("scores_of_1e4", spread=100.0, heads=3, nq=7, nk=40, d=8),
        Attention(
            "scores_of_1e4_causal_fp16",
            spread=100.0,
            heads=2,
            nq=9,
            nk=9,
            q="fp16",
            k="fp16",
            causal=True,
        ),
        Attention("scores_of_1e4_int8", spread=100.0, nk=40, d=16, **INT8),
        Attention("scores_equal", edit=lambda t: t["key"].__setitem__(slice(None), 0.5), nk=70),
        Attention(
            "scores_far_below_zero",
            mask=Mask("fp32", "11qk", hidden=0.0),
            edit=lambda t: t.update(mask=t["mask"] - 3e4),
        ),
        Attention(
            "tiny_numbers",
            # No smaller: GPUs lose the products that are below 2^-126.
            edit=lambda t: t.update(value=t["value"] * 1e-30),
        ),
        Attention(
            "fp16_subnormals",
            v="fp16",
            edit=lambda t: t.update(value=t["value"] * 2.0**-20),
            out="fp32",
        ),
        Attention(
            "values_near_fp16_limit",
            v="fp16",
            out="fp16",
            edit=lambda t: t.update(value=t["value"] * 1e4),
            grad=None,
        ),
        Attention(
            "one_key_stands_out",
            edit=lambda t: t["key"].__setitem__((slice(None), slice(None), 4), 30.0),
            nk=70,
            d=16,
            **INT8,
        ),
        Attention(
            "outlier_channels_int8",
            edit=lambda t: t.update(key=t["key"] * np.where(np.arange(16) % 8 == 3, 10.0, 1.0)),
            d=16,
            nk=40,
            **INT8,
        ),
    ]
    for mask in ("bool", "fp32", "fp16"):
        for value in (nan, inf):
            name = f"masked_keys_hold_{'nan' if np.isnan(value) else 'infinity'}_{mask}"
            result.append(
                Attention(
                    name,
                    mask=Mask(mask, "b11k", hidden=0.0),
                    batch=2,
                    edit=_hide_and_poison(value),
                    nk=9,
                )
            )
    result += [
        Attention(
            "masked_keys_hold_nan_beside_fp16",
            mask=Mask("bool", "111k"),
            edit=_hide_and_poison(nan),
            nk=9,
            q="fp16",
            k="fp16",
            v="fp16",
        ),
        Attention(
            "masked_keys_hold_nan_beside_int8",
            mask=Mask("bool", "111k"),
            edit=_hide_and_poison(nan, ("value",)),
            nk=9,
            q="int8",
            k="int8",
            v="fp32",
        ),
        Attention("causal_hides_nan", causal=True, nq=5, nk=9, edit=_poison_beyond(5, nan)),
        Attention(
            "causal_hides_nan_over_tiles",
            causal=True,
            nq=33,
            nk=70,
            edit=_poison_beyond(33, nan),
            heads=1,
        ),
        Attention("window_hides_nan", window=(-1, 1), nq=5, nk=9, edit=_poison_beyond(6, nan)),
    ]
    return result


def _backward_variants() -> list[Attention]:
    sizes = {"batch": 2, "heads": 4, "kv_heads": 2, "nq": 6, "nk": 9, "d": 10}
    return [
        Attention("backward_without_output", give_output=False, **sizes),
        Attention("backward_without_output_int8", give_output=False, d=16, nk=20, **INT8),
        Attention(
            "backward_without_output_everything",
            give_output=False,
            sinks=True,
            softcap=2.0,
            mask=Mask("fp32", "1hqk", full_rows=(2,)),
            causal=True,
            **sizes,
        ),
        Attention(
            "backward_query_alone",
            forward=False,
            wanted=("query", "d_values"),
            give_output=False,
            **sizes,
        ),
        Attention(
            "backward_key_value_d_given",
            forward=False,
            wanted=("key", "value"),
            d_given=True,
            give_output=False,
            **sizes,
        ),
        Attention(
            "backward_key_value_d_given_int8",
            forward=False,
            wanted=("key", "value"),
            d_given=True,
            give_output=False,
            d=16,
            nk=20,
            **INT8,
        ),
        Attention("backward_value_alone", forward=False, wanted=("value",), **sizes),
        Attention("backward_d_alone", forward=False, wanted=("d_values",), **sizes),
        Attention("backward_sinks_alone", forward=False, wanted=("sinks",), sinks=True, **sizes),
        Attention("backward_fp16_output_given", forward=False, out="fp16", **sizes),
    ]


def groups() -> dict[str, list[Attention]]:
    return {
        "positions": _positions(),
        "scores": _scores(),
        "masks": _masks(),
        "varlen": _varlen(),
        "hard_numbers": _hard_numbers(),
        "backward": _backward_variants(),
    }
