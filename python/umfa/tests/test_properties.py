"""The error rule on random calls: vectors that the generator makes on the spot.

The same calls on every run; UMFA_EXPLORE=1 draws others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay import Live, run_backward, run_forward
from vectors import INT4, INT8, Case

import umfa

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "conformance"))

from cases.attention import Attention, Mask, build  # type: ignore[import-not-found]
from reference.problem import (
    BOTTOM_RIGHT,
    EXACT,
    FAST,
    TOP_LEFT,
)

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

EXPLORE = bool(os.environ.get("UMFA_EXPLORE"))
settings.register_profile(
    "umfa", derandomize=not EXPLORE, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("umfa")

FLOATS = ("fp32", "fp16", "bf16")
LAYOUTS = ("packed", "bnhd", "padded", "transposed")


@pytest.fixture(scope="module")
def shared() -> Iterator[umfa.MFAContext]:
    with umfa.MFAContext() as opened:
        yield opened


@st.composite
def stored(draw: Any) -> str:
    """How an operand is stored: see cases.operands."""
    if draw(st.booleans()):
        return str(draw(st.sampled_from(FLOATS)))
    rows = draw(st.integers(1, 40))
    granularities = ["tensor", "row", "row:32", "row:64", f"block:{rows}", f"channel:{rows}"]
    words = ["asym", "smooth", "rotated", "buffer", "scale16", "zero32", "strided"]
    chosen = draw(st.lists(st.sampled_from(words), unique=True, max_size=4))
    precision = draw(st.sampled_from(["int8", "int4"]))
    return "+".join([f"{precision}/{draw(st.sampled_from(granularities))}", *chosen])


@st.composite
def masks(draw: Any) -> Mask:
    dims = "".join(draw(st.sampled_from([axis, axis, "1", "0"])) for axis in "bhqk")
    hidden = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.1]))
    return Mask(draw(st.sampled_from(["bool", *FLOATS])), dims, hidden)


def sizes(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from([0, 1, 15, 16, 17]), st.integers(1, most))


def layouts(draw: Any, texts: dict[str, str]) -> dict[str, str]:
    """Layouts of the tensors; a transposed matrix cannot hold pairs of INT4."""
    result = {}
    for role in ("query", "key", "value", "output", "grad_output"):
        layout = draw(st.sampled_from(LAYOUTS))
        if not (layout == "transposed" and texts.get(role, "").startswith("int4")):
            result[role] = layout
    return result


@st.composite
def calls(draw: Any, most_q: int, most_k: int) -> Attention:
    q, k, v = draw(stored()), draw(stored()), draw(stored())
    kv_heads = draw(st.integers(1, 2))
    columns = st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 96]))
    even = [any(text.startswith("int4") for text in texts) for texts in ((q, k), (v,))]
    d, dv = (n + n % 2 if pairs else n for n, pairs in zip((draw(columns), draw(columns)), even))
    lengths = None
    if draw(st.integers(0, 4)) == 0:
        pair = st.tuples(st.integers(0, 9), st.integers(0, 12))
        lengths = tuple(draw(st.lists(pair, min_size=1, max_size=4)))
    window = st.tuples(st.integers(-1, 20), st.integers(-1, 20))
    return Attention(
        name=f"random {draw(st.integers(0, 2**32))}",
        batch=1 if lengths else draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        nq=draw(sizes(most_q)),
        nk=draw(sizes(most_k)),
        d=d,
        dv=dv,
        q=q,
        k=k,
        v=v,
        out=draw(st.sampled_from(["fp32", "fp32", "fp16", "bf16"])),
        layouts=layouts(draw, {"query": q, "key": k, "value": v}),
        scale=draw(st.sampled_from([None, None, 0.3, -0.2, 1.0])),
        softcap=draw(st.sampled_from([0.0, 0.0, 0.0, 1.5, 30.0])),
        causal=draw(st.booleans()),
        window=draw(st.sampled_from([None, None, draw(window)])),
        alignment=draw(st.sampled_from([TOP_LEFT, BOTTOM_RIGHT])),
        mask=draw(st.sampled_from([None, None, draw(masks())])),
        alibi=draw(st.sampled_from([None, None, None, "1h"])),
        sinks=draw(st.integers(0, 3)) == 0,
        lengths=lengths,
        offset=draw(st.sampled_from([0.0, 2.0])),
    )


def case_of(call: Attention) -> Case:
    """The call as a vector: in memory, with what must come out and the errors allowed."""
    record = build(call)
    case = Case(record.name, record.call, record.status, bytes(record.blob))
    for line in record.lines("", 0)[1:-1]:
        case.item(line.split())
    return case


def relative_rmse(found: Any, expected: Any) -> float:
    error, size = np.square(found - expected).sum(), np.square(expected).sum()
    return float(np.sqrt(error / size)) if size else 0.0


@settings(max_examples=200)
@given(call=calls(24, 60), fast=st.integers(0, 5))
def test_forward(shared: umfa.MFAContext, call: Attention, fast: int) -> None:
    compute = FAST if fast == 0 else EXACT
    case = case_of(replace(call, grad=None, compute=compute))
    run_forward(shared, case)
    precisions = {case.tensors[role].precision for role in ("query", "key", "value")}
    expected = case.expected_values("output").astype(np.float64)
    if precisions & {INT8, INT4} and fast and call.out == "fp32" and expected.size >= 64:
        live = Live(case)
        found = umfa.flash_attention_forward(
            shared, *live.operands(), **live.options(), out=live.tensor("output")
        )
        assert relative_rmse(np.asarray(found), expected) <= 2e-4


@settings(max_examples=150)
@given(call=calls(20, 40), grad=st.sampled_from(FLOATS), given=st.booleans(), clip=st.booleans())
def test_backward(
    shared: umfa.MFAContext, call: Attention, grad: str, given: bool, clip: bool
) -> None:
    call = replace(call, forward=False, grad=grad, give_output=given, clip=clip, out="fp32")
    run_backward(shared, case_of(call))
