"""Precisions, head dimensions, heads, sizes and layouts."""

from __future__ import annotations

from itertools import product

from reference.problem import BOTTOM_RIGHT, FAST

from .attention import Attention

FLOATS = ("fp32", "fp16", "bf16")
EVERY = (*FLOATS, "int8", "int4")


def _precisions() -> list[Attention]:
    """Every mix of Q, K and V, each in its own precision."""
    return [
        Attention(
            f"mix_{q}_{k}_{v}",
            nq=6,
            nk=9,
            d=8,
            dv=6,
            q=q,
            k=k,
            v=v,
            out="fp32" if k == v else "fp16",
            batch=1,
        )
        for q, k, v in product(EVERY, EVERY, EVERY)
        # The full product on Q and K; V goes round with them, and all V for the equal ones.
        if q == k or v == EVERY[(EVERY.index(q) + EVERY.index(k)) % 5]
    ]


def _outputs() -> list[Attention]:
    return [
        Attention(
            f"out_{out}_of_{x}_grad_{grad}", nq=9, nk=13, d=16, q=x, k=x, v=x, out=out, grad=grad
        )
        for out, x, grad in product(("fp16", "bf16"), ("fp32", "fp16", "bf16", "int8"), FLOATS)
        if (out == x) == (grad == out) or grad == "fp32"
    ]


QUANTIZED = (
    "int8/row",
    "int8/row:32",
    "int8/row:64",
    "int8/block:1",
    "int8/block:5",
    "int8/block:64",
    "int8/channel:4",
    "int8/channel:64",
    "int8+asym",
    "int8+asym+buffer",
    "int8+buffer+scale16",
    "int8/row+asym",
    "int8/row+scale16+strided",
    "int8/row:32+asym+zero32+strided",
    "int8/block:7+asym+zero32",
    "int8/channel:8+asym+scale16",
    "int8+smooth",
    "int8/row+smooth",
    "int8+rotated",
    "int8/row+rotated+smooth",
    "int8/row:32+rotated+asym+scale16",
    "int8/block:6+rotated+smooth+asym",
    "int4/row",
    "int4/row:32",
    "int4/block:5",
    "int4/channel:8",
    "int4+asym",
    "int4/row:32+asym",
    "int4/row:64+asym+scale16+strided",
    "int4/row+rotated",
    "int4/row:32+rotated+smooth+asym",
    "int4/channel:16+asym+smooth",
)


def _name(text: str) -> str:
    return text.replace("/", "_").replace(":", "").replace("+", "_")


def _granularities() -> list[Attention]:
    """Each way to quantize, on K and V with FP32 queries, and on all three."""
    result = []
    for i, text in enumerate(QUANTIZED):
        value = text.replace("+smooth", "")
        common = {
            "nq": 3,
            "nk": 15,
            "d": (40, 72, 48)[i % 3] if "row:" in text else 24,
            "heads": 3,
            "kv_heads": 1,
            "offset": 2.0,
        }
        result.append(
            Attention(f"kv_{_name(text)}", k=text, v=value, dv=32 if i % 2 else None, **common)
        )
        if i % 2 == 0:
            result.append(
                Attention(
                    f"qkv_{_name(text)}",
                    q=value,
                    k=text,
                    v=value,
                    layouts={"key": "padded"},
                    **common,
                )
            )
    result += [
        Attention("q_int8_row_rotated_alone", q="int8/row+rotated", nk=9, d=16),
        Attention("q_rotated_k_rotated", q="int8/row+rotated", k="int8/row+rotated", nk=9, d=48),
        Attention("q_smooth", q="int8+smooth", k="int8/row", nk=9, d=16),
        Attention("v_smooth_rotated", v="int8/row+smooth+rotated", nk=9, d=16),
        Attention("v_int4_rotated_dv_6", v="int4/row+rotated", nk=9, d=8, dv=6),
        Attention("clip_int8", q="int8", k="int8/row", v="int8/block:3", nk=9, d=8, clip=True),
        Attention(
            "clip_int4_asym", q="fp32", k="int4/row+asym", v="int4+asym", nk=9, d=8, clip=True
        ),
        Attention(
            "clip_rotated", k="int8/row+rotated", v="int4/row+rotated", nk=9, d=16, clip=True
        ),
    ]
    result += [
        Attention(f"fast_{_name(v)}", q=q, k=k, v=v, nq=5, nk=70, d=16, compute=FAST, grad=None)
        for q, k, v in (
            ("int8", "int8", "int8"),
            ("fp32", "int8/row", "int4/row"),
            ("fp32", "fp16", "int8/channel:32+asym"),
        )
    ]
    return result


def _head_dimensions() -> list[Attention]:
    dims = (
        1,
        2,
        3,
        4,
        7,
        8,
        9,
        15,
        16,
        17,
        31,
        32,
        33,
        40,
        59,
        63,
        64,
        65,
        72,
        80,
        96,
        111,
        112,
        127,
        128,
        129,
        160,
        192,
    )
    result = []
    for i, d in enumerate(dims):
        result.append(
            Attention(
                f"d{d}",
                heads=2,
                kv_heads=1,
                nq=4,
                nk=6,
                d=d,
                q=FLOATS[i % 3],
                k=FLOATS[i % 2],
                causal=i % 2 == 0,
            )
        )
        result.append(
            Attention(
                f"d{d}_int8",
                heads=1,
                nq=3,
                nk=5,
                d=d,
                q="int8",
                k="int8/row",
                v="int8",
                grad="fp16",
            )
        )
        if d % 2 == 0:
            result.append(
                Attention(
                    f"d{d}_int4",
                    heads=1,
                    nq=3,
                    nk=5,
                    d=d,
                    k="int4/row",
                    v="int4",
                    grad="bf16" if d <= 64 else None,
                )
            )
    for d in (255, 256, 257, 320, 511, 512):
        result.append(
            Attention(f"d{d}", heads=1, nq=3, nk=4, d=d, q="fp16", k="fp16", v="bf16", grad="fp16")
        )
        result.append(
            Attention(
                f"d{d}_int8",
                heads=1,
                nq=2,
                nk=4,
                d=d,
                q="int8/row",
                k="int8/row",
                v="int8",
                grad=None,
            )
        )
    for d, dv in ((8, 64), (64, 8), (1, 512), (512, 1), (40, 72), (192, 128), (59, 111), (96, 80)):
        result.append(
            Attention(f"d{d}_dv{dv}", heads=2, nq=4, nk=6, d=d, dv=dv, q="fp16", k="bf16")
        )
    result.append(
        Attention(
            "d256_over_tiles",
            heads=1,
            nq=17,
            nk=70,
            d=256,
            q="bf16",
            k="int8/row",
            v="int4/row",
            grad=None,
        )
    )
    result.append(
        Attention(
            "d160_over_tiles",
            heads=1,
            nq=14,
            nk=67,
            d=160,
            q="fp16",
            k="fp16",
            v="fp16",
            grad="fp16",
        )
    )
    return result


def _heads() -> list[Attention]:
    result = []
    for heads, kv_heads in ((12, 4), (9, 3), (8, 1), (6, 6), (3, 1)):
        name = f"gqa_{heads}_{kv_heads}"
        common = {"heads": heads, "kv_heads": kv_heads}
        result.append(
            Attention(name, nq=7, nk=11, d=12, batch=2, grad="fp16", causal=True, **common)
        )
        result.append(
            Attention(
                f"{name}_int8", q="int8/row", k="int8/row", v="int8", nq=5, nk=9, d=16, **common
            )
        )
        result.append(
            Attention(
                f"{name}_decode",
                nq=1,
                nk=37,
                d=16,
                k="int8/row",
                v="int4/row",
                causal=True,
                alignment=BOTTOM_RIGHT,
                **common,
            )
        )
        result.append(
            Attention(
                f"{name}_padded",
                nq=3,
                nk=4,
                d=5,
                layouts=dict.fromkeys(("query", "key", "value"), "padded"),
                **common,
            )
        )
    return result


def _sizes() -> list[Attention]:
    """Both sides of the edges of likely tiles."""
    edges = (
        1,
        2,
        7,
        8,
        9,
        11,
        12,
        13,
        15,
        16,
        17,
        23,
        24,
        25,
        31,
        32,
        33,
        47,
        48,
        49,
        63,
        64,
        65,
        95,
        96,
        97,
        127,
        128,
        129,
    )
    result = []
    for i, n in enumerate(edges):
        other = edges[(i * 11 + 5) % len(edges)]
        result.append(
            Attention(
                f"n{n}x{other}",
                heads=1,
                nq=n,
                nk=other,
                d=8,
                dv=6,
                q="fp16",
                grad="fp16",
                causal=i % 3 == 0,
            )
        )
        result.append(
            Attention(
                f"n{other}x{n}_int8",
                heads=1,
                nq=other,
                nk=n,
                d=8,
                q="int8",
                k="int8/row",
                v="int8",
                grad=None,
            )
        )
    for n in (255, 256, 257):
        result.append(
            Attention(
                f"n3x{n}", heads=2, nq=3, nk=n, d=8, q="fp16", k="fp16", v="fp16", grad="fp16"
            )
        )
        result.append(
            Attention(
                f"n{n}x5", heads=1, nq=n, nk=5, d=8, q="fp16", k="fp16", v="fp16", grad="fp16"
            )
        )
        result.append(
            Attention(
                f"n{n}x{n}_causal", heads=1, nq=n, nk=n, d=4, q="bf16", causal=True, grad="bf16"
            )
        )
    result += [
        Attention(
            "n129x257_causal_bottom_right",
            heads=1,
            nq=129,
            nk=257,
            d=8,
            causal=True,
            alignment=BOTTOM_RIGHT,
            q="fp16",
            k="fp16",
            grad="fp16",
        ),
        Attention(
            "n257x129_causal_bottom_right",
            heads=1,
            nq=257,
            nk=129,
            d=4,
            causal=True,
            alignment=BOTTOM_RIGHT,
            grad="fp16",
        ),
        Attention(
            "n1x513_decode", heads=4, kv_heads=2, nq=1, nk=513, d=8, k="int8/row", v="int8/row"
        ),
        Attention(
            "n2x1025_decode_int4",
            heads=2,
            kv_heads=1,
            nq=2,
            nk=1025,
            d=8,
            k="int4/row",
            v="int4/row",
            grad=None,
        ),
        Attention("n1x1", nq=1, nk=1, d=5),
        Attention("no_keys", nq=3, nk=0, d=4),
        Attention("no_keys_sinks", nq=3, nk=0, d=4, sinks=True),
        Attention("no_queries", nq=0, nk=3, d=4),
        Attention("no_rows_at_all", nq=0, nk=0, d=4),
        Attention("no_keys_int8", nq=3, nk=0, d=4, k="int8/row", v="int8/row"),
    ]
    return result


def _layouts() -> list[Attention]:
    everything = (
        "query",
        "key",
        "value",
        "output",
        "grad_output",
        "grad_query",
        "grad_key",
        "grad_value",
    )
    result = []
    for layout in ("bnhd", "transposed", "padded"):
        for text in ("fp32", "bf16", "int8", "int8/row:32+asym"):
            layouts = dict.fromkeys(everything, layout)
            name = f"{layout}_{_name(text)}"
            result.append(
                Attention(
                    name,
                    batch=2,
                    heads=4,
                    kv_heads=2,
                    nq=6,
                    nk=10,
                    d=12,
                    dv=10,
                    q=text,
                    k=text,
                    v=text,
                    layouts=layouts,
                )
            )
    for layout in ("bnhd", "padded"):
        layouts = dict.fromkeys(("query", "key", "value"), layout)
        result.append(
            Attention(
                f"{layout}_int4",
                batch=2,
                nq=4,
                nk=6,
                d=12,
                dv=10,
                q="int4",
                k="int4/row",
                v="int4",
                layouts=layouts,
            )
        )
    result += [
        Attention(
            "padded_statistics",
            batch=2,
            nq=5,
            layouts={"logsumexp": "padded", "d_values": "padded"},
        ),
        Attention(
            "bnhd_statistics", batch=2, nq=5, layouts={"logsumexp": "bnhd", "d_values": "bnhd"}
        ),
        Attention(
            "kv_shared_by_the_batch", batch=3, layouts={"key": "over batch", "value": "over batch"}
        ),
        Attention(
            "kv_shared_by_the_heads",
            batch=2,
            heads=4,
            layouts={"key": "over heads", "value": "over heads"},
        ),
        Attention("query_shared_by_the_batch", batch=3, layouts={"query": "over batch"}),
        Attention(
            "mixed_layouts",
            batch=2,
            layouts={
                "query": "bnhd",
                "key": "transposed",
                "value": "padded",
                "output": "transposed",
            },
        ),
    ]
    return result


def _fixed() -> list[Attention]:
    """The fixed signatures."""
    result = []
    for i, x in enumerate(FLOATS):
        result.append(
            Attention(
                f"plain_{x}",
                call="plain",
                batch=2,
                heads=3,
                q=x,
                k=x,
                v=x,
                logsumexp=False,
                grad=None,
                scale=0.3,
                causal=i == 1,
            )
        )
    every = dict.fromkeys(("query", "key", "value", "output"), "transposed")
    result.append(
        Attention(
            "plain_transposed", call="plain", layouts=every, logsumexp=False, grad=None, scale=0.4
        )
    )
    result.append(
        Attention(
            "plain_transposed_k",
            call="plain",
            layouts={"key": "transposed"},
            logsumexp=False,
            grad=None,
            scale=0.4,
        )
    )
    for i, (q, k, v) in enumerate(
        (
            ("fp32", "fp32", "fp32"),
            ("int8", "int8", "int8"),
            ("fp16", "int8+asym", "int4"),
            ("int4", "int4+asym", "bf16"),
        )
    ):
        common = {
            "call": "training",
            "q": q,
            "k": k,
            "v": v,
            "scale": 0.35,
            "batch": 2,
            "give_output": False,
        }
        wanted = ("query", "key", "value", "d_values")
        result.append(
            Attention(
                f"training_{_name(q)}_{_name(k)}_{_name(v)}",
                wanted=wanted,
                causal=i % 2 == 1,
                **common,
            )
        )
    roles = ("query", "key", "value", "grad_query", "grad_key", "grad_value")
    result.append(
        Attention(
            "training_transposed",
            call="training",
            q="int8",
            k="int8",
            v="fp32",
            scale=0.35,
            layouts=dict.fromkeys(roles, "transposed"),
            give_output=False,
        )
    )
    return result


def groups() -> dict[str, list[Attention]]:
    return {
        "precisions": [*_precisions(), *_outputs()],
        "granularities": _granularities(),
        "head_dimensions": _head_dimensions(),
        "heads": _heads(),
        "sizes": _sizes(),
        "layouts": _layouts(),
        "fixed_signatures": _fixed(),
    }
