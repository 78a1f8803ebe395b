"""Precisions, head dimensions, heads, sizes and layouts."""

from __future__ import annotations

from itertools import product

from .attention import Attention
from .table import row, rows

FLOATS = ("fp32", "fp16", "bf16")
EVERY = (*FLOATS, "int8", "int4")


def _if(condition: bool, words: str) -> str:
    return words if condition else ""


def _precisions() -> list[Attention]:
    """Every mix of Q, K and V, each in its own precision."""
    return [
        row(
            f"mix_{q}_{k}_{v} nq=6 nk=9 d=8 dv=6 q={q} k={k} v={v} "
            f"out={'fp32' if k == v else 'fp16'}"
        )
        for q, k, v in product(EVERY, EVERY, EVERY)
        # The full product on Q and K; V goes round with them, and all V for the equal ones.
        if q == k or v == EVERY[(EVERY.index(q) + EVERY.index(k)) % 5]
    ]


def _outputs() -> list[Attention]:
    return [
        row(f"out_{out}_of_{x}_grad_{grad} nq=9 nk=13 d=16 q={x} k={x} v={x} out={out} grad={grad}")
        for out, x, grad in product(("fp16", "bf16"), ("fp32", "fp16", "bf16", "int8"), FLOATS)
        if (out == x) == (grad == out) or grad == "fp32"
    ]


QUANTIZATIONS = """
int8/row  int8/row:32  int8/row:64  int8/block:1  int8/block:5  int8/block:64  int8/channel:4
int8/channel:64  int8+asym  int8+asym+buffer  int8+buffer+scale16
int8/row+asym  int8/row+scale16+strided  int8/row:32+asym+zero32+strided
int8/block:7+asym+zero32  int8/channel:8+asym+scale16
int8+smooth  int8/row+smooth
int8+rotated  int8/row+rotated+smooth  int8/row:32+rotated+asym+scale16
int8/block:6+rotated+smooth+asym
int4/row  int4/row:32  int4/block:5  int4/channel:8
int4+asym  int4/row:32+asym  int4/row:64+asym+scale16+strided
int4/row+rotated  int4/row:32+rotated+smooth+asym  int4/channel:16+asym+smooth
"""
QUANTIZED = QUANTIZATIONS.split()


def _name(text: str) -> str:
    return text.replace("/", "_").replace(":", "").replace("+", "_")


OF_QUANTIZATION = """
q_int8_row_rotated_alone  nk=9 d=16       q=int8/row+rotated
q_rotated_k_rotated       nk=9 d=48       q=int8/row+rotated k=int8/row+rotated
q_smooth                  nk=9 d=16       q=int8+smooth k=int8/row
v_smooth_rotated          nk=9 d=16       v=int8/row+smooth+rotated
v_int4_rotated_dv_6       nk=9 d=8  dv=6  v=int4/row+rotated
clip_int8                 nk=9 d=8  clip  q=int8 k=int8/row v=int8/block:3
clip_int4_asym            nk=9 d=8  clip  q=fp32 k=int4/row+asym v=int4+asym
clip_rotated              nk=9 d=16 clip  k=int8/row+rotated v=int4/row+rotated
fast_int8                 nq=5 nk=70 d=16 fast grad=none q=int8 k=int8     v=int8
fast_int4_row             nq=5 nk=70 d=16 fast grad=none q=fp32 k=int8/row v=int4/row
fast_int8_channel32_asym  nq=5 nk=70 d=16 fast grad=none q=fp32 k=fp16     v=int8/channel:32+asym
"""


def _granularities() -> list[Attention]:
    """Each way to quantize, on K and V with FP32 queries, and on all three."""
    result = []
    for i, text in enumerate(QUANTIZED):
        value = text.replace("+smooth", "")
        d = (40, 72, 48)[i % 3] if "row:" in text else 24
        common = f"nq=3 nk=15 d={d} heads=3 kv_heads=1 offset=2.0 k={text} v={value}"
        result.append(row(f"kv_{_name(text)} {common} {_if(i % 2 == 1, 'dv=32')}"))
        if i % 2 == 0:
            result.append(row(f"qkv_{_name(text)} {common} q={value} key:padded"))
    return result + rows(OF_QUANTIZATION)


DIMENSIONS = (
    *(1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 59, 63, 64, 65, 72, 80, 96),
    *(111, 112, 127, 128, 129, 160, 192),
)
OVER_TILES = """
d256_over_tiles  heads=1 nq=17 nk=70 d=256 q=bf16 k=int8/row v=int4/row grad=none
d160_over_tiles  heads=1 nq=14 nk=67 d=160 q=fp16 k=fp16     v=fp16     grad=fp16
"""


def _head_dimensions() -> list[Attention]:
    result = []
    for i, d in enumerate(DIMENSIONS):
        small = f"heads=1 nq=3 nk=5 d={d}"
        result += [
            row(
                f"d{d} heads=2 kv_heads=1 nq=4 nk=6 d={d} q={FLOATS[i % 3]} k={FLOATS[i % 2]} "
                f"{_if(i % 2 == 0, 'causal')}"
            ),
            row(f"d{d}_int8 {small} q=int8 k=int8/row v=int8 grad=fp16"),
        ]
        if d % 2 == 0:
            grad = "bf16" if d <= 64 else "none"
            result.append(row(f"d{d}_int4 {small} k=int4/row v=int4 grad={grad}"))
    for d in (255, 256, 257, 320, 511, 512):
        result += rows(f"""
            d{d}      heads=1 nq=3 nk=4 d={d} q=fp16     k=fp16     v=bf16 grad=fp16
            d{d}_int8 heads=1 nq=2 nk=4 d={d} q=int8/row k=int8/row v=int8 grad=none
        """)
    for d, dv in ((8, 64), (64, 8), (1, 512), (512, 1), (40, 72), (192, 128), (59, 111), (96, 80)):
        result.append(row(f"d{d}_dv{dv} heads=2 nq=4 nk=6 d={d} dv={dv} q=fp16 k=bf16"))
    return result + rows(OVER_TILES)


def _heads() -> list[Attention]:
    result = []
    for heads, kv_heads in ((12, 4), (9, 3), (8, 1), (6, 6), (3, 1)):
        name, both = f"gqa_{heads}_{kv_heads}", f"heads={heads} kv_heads={kv_heads}"
        result += rows(f"""
            {name}        {both} nq=7 nk=11 d=12 batch=2 grad=fp16 causal
            {name}_int8   {both} nq=5 nk=9  d=16 q=int8/row k=int8/row v=int8
            {name}_decode {both} nq=1 nk=37 d=16 k=int8/row v=int4/row causal bottom_right
            {name}_padded {both} nq=3 nk=4  d=5  query,key,value:padded
        """)
    return result


EDGES = (
    *(1, 2, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49),
    *(63, 64, 65, 95, 96, 97, 127, 128, 129),
)
OF_SIZES = """
n129x257_causal_bottom_right heads=1 nq=129 nk=257 d=8 causal bottom_right q=fp16 k=fp16 grad=fp16
n257x129_causal_bottom_right heads=1 nq=257 nk=129 d=4 causal bottom_right grad=fp16
n1x513_decode                heads=4 kv_heads=2 nq=1 nk=513  d=8 k=int8/row v=int8/row
n2x1025_decode_int4          heads=2 kv_heads=1 nq=2 nk=1025 d=8 k=int4/row v=int4/row grad=none
n1x1            nq=1 nk=1 d=5
no_keys         nq=3 nk=0 d=4
no_keys_sinks   nq=3 nk=0 d=4 sinks
no_queries      nq=0 nk=3 d=4
no_rows_at_all  nq=0 nk=0 d=4
no_keys_int8    nq=3 nk=0 d=4 k=int8/row v=int8/row
"""


def _sizes() -> list[Attention]:
    """Both sides of the edges of likely tiles."""
    result = []
    for i, n in enumerate(EDGES):
        other = EDGES[(i * 11 + 5) % len(EDGES)]
        causal = _if(i % 3 == 0, "causal")
        result += rows(f"""
            n{n}x{other}      heads=1 nq={n} nk={other} d=8 dv=6 q=fp16 grad=fp16 {causal}
            n{other}x{n}_int8 heads=1 nq={other} nk={n} d=8 q=int8 k=int8/row v=int8 grad=none
        """)
    for n in (255, 256, 257):
        result += rows(f"""
            n3x{n}          heads=2 nq=3   nk={n} d=8 q=fp16 k=fp16 v=fp16 grad=fp16
            n{n}x5          heads=1 nq={n} nk=5   d=8 q=fp16 k=fp16 v=fp16 grad=fp16
            n{n}x{n}_causal heads=1 nq={n} nk={n} d=4 q=bf16 causal grad=bf16
        """)
    return result + rows(OF_SIZES)


EVERYTHING = "query,key,value,output,grad_output,grad_query,grad_key,grad_value"
OF_LAYOUTS = """
bnhd_int4    batch=2 nq=4 nk=6 d=12 dv=10 q=int4 k=int4/row v=int4 query,key,value:bnhd
padded_int4  batch=2 nq=4 nk=6 d=12 dv=10 q=int4 k=int4/row v=int4 query,key,value:padded
padded_statistics         batch=2 nq=5    logsumexp,d_values:padded
bnhd_statistics           batch=2 nq=5    logsumexp,d_values:bnhd
kv_shared_by_the_batch    batch=3         key,value:over_batch
kv_shared_by_the_heads    batch=2 heads=4 key,value:over_heads
query_shared_by_the_batch batch=3         query:over_batch
mixed_layouts             batch=2         query:bnhd key,output:transposed value:padded
"""


def _layouts() -> list[Attention]:
    shape = "batch=2 heads=4 kv_heads=2 nq=6 nk=10 d=12 dv=10"
    result = [
        row(f"{layout}_{_name(x)} {shape} q={x} k={x} v={x} {EVERYTHING}:{layout}")
        for layout in ("bnhd", "transposed", "padded")
        for x in ("fp32", "bf16", "int8", "int8/row:32+asym")
    ]
    return result + rows(OF_LAYOUTS)


PLAIN = "call=plain -logsumexp grad=none"
TRAINING = "call=training scale=0.35 -give_output"
OF_FIXED = f"""
plain_fp32           {PLAIN} scale=0.3 batch=2 heads=3 q=fp32 k=fp32 v=fp32
plain_fp16           {PLAIN} scale=0.3 batch=2 heads=3 q=fp16 k=fp16 v=fp16 causal
plain_bf16           {PLAIN} scale=0.3 batch=2 heads=3 q=bf16 k=bf16 v=bf16
plain_transposed     {PLAIN} scale=0.4 query,key,value,output:transposed
plain_transposed_k   {PLAIN} scale=0.4 key:transposed
"""


def _fixed() -> list[Attention]:
    """The fixed signatures."""
    result = rows(OF_FIXED)
    for i, (q, k, v) in enumerate(
        (
            ("fp32", "fp32", "fp32"),
            ("int8", "int8", "int8"),
            ("fp16", "int8+asym", "int4"),
            ("int4", "int4+asym", "bf16"),
        )
    ):
        name = f"training_{_name(q)}_{_name(k)}_{_name(v)}"
        result.append(
            row(
                f"{name} {TRAINING} batch=2 q={q} k={k} v={v} "
                f"wanted=query,key,value,d_values {_if(i % 2 == 1, 'causal')}"
            )
        )
    transposed = "query,key,value,grad_query,grad_key,grad_value:transposed"
    result.append(row(f"training_transposed {TRAINING} q=int8 k=int8 v=fp32 {transposed}"))
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
