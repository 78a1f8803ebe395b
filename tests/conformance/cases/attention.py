"""Attention cases: a forward call, a backward call, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from reference.backward import Incoming, backward
from reference.errorrule import forward_bounds, gradient_bounds
from reference.forward import forward
from reference.portable import normal, uniform
from reference.precision import FP32, NAMES, rounded
from reference.problem import EXACT, TOP_LEFT, Operand, Options, Problem

from .operands import store
from .record import CallOptions, Record
from .views import broadcast, place

SCALE, CAUSAL, WINDOW = 1, 2, 4
D_GIVEN, CLIP = 1, 2

Edit = Callable[[dict[str, NDArray]], None]


@dataclass(frozen=True)
class Mask:
    """A mask; its dimensions are full (b, h, q, k) or broadcast (1: of size 1, 0: of stride 0)."""

    precision: str = "bool"
    dims: str = "bhqk"
    hidden: float = 0.3
    """The share of elements that hide their key: false, or -infinity."""
    full_rows: tuple[int, ...] = ()
    """Query rows that see nothing."""


@dataclass(frozen=True)
class Attention:
    """What tells one case from the plainest one."""

    name: str
    batch: int = 1
    heads: int = 2
    kv_heads: int | None = None
    nq: int = 5
    nk: int = 7
    d: int = 8
    dv: int | None = None
    q: str = "fp32"
    k: str = "fp32"
    v: str = "fp32"
    out: str = "fp32"
    grad: str | None = "fp32"
    """The precision of dO; None: no backward call."""
    layouts: dict[str, str] = field(default_factory=dict)
    scale: float | None = None
    softcap: float = 0.0
    causal: bool = False
    window: tuple[int, int] | None = None
    alignment: int = TOP_LEFT
    compute: int = EXACT
    mask: Mask | None = None
    alibi: str | None = None
    """"1h" or "bh": the shape of the slopes."""
    sinks: bool = False
    lengths: tuple[tuple[int, int], ...] | None = None
    spread: float = 1.0
    """The standard deviation of query and key."""
    offset: float = 0.0
    """Added to every key, different in each column: what smoothing removes."""
    edit: Edit | None = None
    """Changes the real values of query, key, value, mask or sinks before they are stored."""
    forward: bool = True
    logsumexp: bool = True
    """False where L is not checked: a score of +infinity has no single right one."""
    give_output: bool = True
    wanted: tuple[str, ...] = ("query", "key", "value", "mask", "sinks", "d_values")
    d_given: bool = False
    clip: bool = False
    call: str = "attention"


def _values(case: Attention) -> dict[str, NDArray]:
    """Real values, different in every head."""
    nq, nk = case.nq, case.nk
    if case.lengths is not None:
        nq, nk = sum(q for q, _ in case.lengths), sum(k for _, k in case.lengths)
    kv_heads, dv = case.kv_heads or case.heads, case.dv or case.d

    def tensor(role: str, heads: int, rows: int, columns: int, spread: float) -> NDArray:
        layout = case.layouts.get(role, "packed")
        shape = (
            1 if layout == "over batch" else case.batch,
            1 if layout == "over heads" else heads,
            rows,
            columns,
        )
        x = spread * normal(f"{case.name} {role}", shape)
        x = x + 0.1 * np.arange(shape[1])[:, None, None]
        return np.broadcast_to(x, (case.batch, heads, rows, columns)).copy()

    result = {
        "query": tensor("query", case.heads, nq, case.d, case.spread),
        "key": tensor("key", kv_heads, nk, case.d, case.spread),
        "value": tensor("value", kv_heads, nk, dv, 1.0),
        "grad_output": tensor("grad_output", case.heads, nq, dv, 1.0),
    }
    if case.offset:
        result["key"] += case.offset * normal(f"{case.name} offset", (1, kv_heads, 1, case.d))
    if case.mask is not None:
        result["mask"] = _mask(case, case.mask, nq, nk)
    if case.alibi is not None:
        shape = (case.batch if case.alibi == "bh" else 1, case.heads, 1, 1)
        result["alibi_slopes"] = np.asarray(
            0.05 + 0.3 * uniform(f"{case.name} slopes", shape), np.float32
        )
    if case.sinks:
        result["sinks"] = np.asarray(
            normal(f"{case.name} sinks", (1, case.heads, 1, 1)), np.float32
        )
    if case.edit is not None:
        case.edit(result)
    return {role: x if x.dtype == np.bool_ else x.astype(np.float64) for role, x in result.items()}


def _mask(case: Attention, mask: Mask, nq: int, nk: int) -> NDArray:
    full = (case.batch, case.heads, nq, nk)
    if case.lengths is not None:
        full = (
            len(case.lengths),
            case.heads,
            max(q for q, _ in case.lengths),
            max(k for _, k in case.lengths),
        )
    shape = tuple(n if d in "bhqk" else 1 for n, d in zip(full, mask.dims))
    keep = uniform(f"{case.name} hidden", shape) >= mask.hidden
    if mask.full_rows:
        keep[:, :, list(mask.full_rows)] = False
    if mask.precision == "bool":
        values: NDArray = keep
    else:
        added = rounded(normal(f"{case.name} mask", shape), NAMES[mask.precision])
        values = np.where(keep, added, -np.inf)
    return np.broadcast_to(
        values, tuple(1 if d == "1" else n for n, d in zip(full, mask.dims))
    ).copy()


def _options(record: Record, case: Attention, values: dict[str, NDArray]) -> Options:
    """Both the options of the record and what the reference needs of them."""
    flags = (SCALE if case.scale is not None else 0) | (CAUSAL if case.causal else 0)
    flags |= WINDOW if case.window is not None else 0
    left, right = case.window or (0, 0)
    scale = None if case.scale is None else float(np.float32(case.scale))
    record.options = CallOptions(
        flags, scale or 0.0, case.softcap, case.alignment, case.compute, left, right
    )
    if case.mask is not None:
        mask = values["mask"]
        if "0" in case.mask.dims:
            stored = tuple(1 if d in "10" else n for n, d in zip(mask.shape, case.mask.dims))
            view = broadcast(mask.shape, (stored[0], stored[1], stored[2], stored[3]))
        else:
            view = place(mask.shape, case.layouts.get("mask", "packed"))
        # Any byte but 0 is true.
        content = (
            np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape) % 255, 0)
            if mask.dtype == np.bool_
            else mask
        )
        if mask.dtype == np.bool_ and "0" in case.mask.dims:
            content = np.where(mask, 255, 0)
        record.input("mask", content, NAMES[case.mask.precision], view)
    for role in ("alibi_slopes", "sinks"):
        if role in values:
            record.input(role, values[role], FP32, place(values[role].shape, "packed"))
    if case.lengths is not None:
        ends = [
            np.cumsum([0, *(length[side] for length in case.lengths)]).astype("<i4")
            for side in (0, 1)
        ]
        buffers = [record.data(e.tobytes()) for e in ends]
        record.varlen = (len(case.lengths), buffers[0], 0, buffers[1], 0)
    slopes, sinks = values.get("alibi_slopes"), values.get("sinks")
    return Options(
        scale=scale,
        softcap=float(np.float32(case.softcap)),
        causal=case.causal,
        window=case.window,
        alignment=case.alignment,
        compute=case.compute,
        mask=values.get("mask"),
        alibi_slopes=None if slopes is None else slopes[:, :, 0, 0],
        sinks=None if sinks is None else sinks[0, :, 0, 0],
        lengths=None if case.lengths is None else list(case.lengths),
    )


def _forward(record: Record, case: Attention, problem: Problem):
    exact = forward(problem)
    bounds = forward_bounds(problem, exact)
    if case.forward:
        layout = case.layouts.get("output", "packed")
        record.output("output", NAMES[case.out], place(exact.output.shape, layout))
        record.expect("output", exact.output, bounds["output"])
        if case.logsumexp:
            layout = case.layouts.get("logsumexp", "packed")
            record.output("logsumexp", FP32, place(exact.logsumexp.shape, layout))
            record.expect("logsumexp", exact.logsumexp, bounds["logsumexp"])
    return exact


def _backward(
    record: Record, case: Attention, problem: Problem, exact, grad_output: NDArray
) -> None:
    assert case.grad is not None
    incoming_gradient = store(
        record, "grad_output", grad_output, case.grad, case.layouts.get("grad_output", "packed")
    )
    logsumexp = rounded(exact.logsumexp, FP32)
    record.input("given_logsumexp", logsumexp, FP32, place(logsumexp.shape, "packed"))
    given = rounded(exact.output, NAMES[case.out]) if case.give_output else None
    if given is not None:
        layout = case.layouts.get("output", "packed")
        record.input("given_output", given, NAMES[case.out], place(given.shape, layout))
    gradients = backward(problem, Incoming(incoming_gradient, exact.logsumexp, clip=case.clip))
    incoming = Incoming(incoming_gradient, logsumexp, given, case.clip)
    if case.d_given:
        # The bounds are those of a call that computes D itself: this one is not asked to do better.
        record.input(
            "d_values",
            rounded(gradients.d_values, FP32),
            FP32,
            place(gradients.d_values.shape, "packed"),
        )
    record.flags = (D_GIVEN if case.d_given else 0) | (CLIP if case.clip else 0)
    bounds = gradient_bounds(problem, gradients, incoming)
    for name in case.wanted:
        values = getattr(gradients, name)
        if values is None or (name == "d_values" and case.d_given):
            continue
        role = name if name == "d_values" else f"grad_{name}"
        record.output(role, FP32, place(values.shape, case.layouts.get(role, "packed")))
        record.expect(role, values, bounds[name])


def build(case: Attention) -> Record:
    record, values = Record(case.name, case.call), _values(case)
    operands: dict[str, Operand] = {}
    for role, text in (("query", case.q), ("key", case.k), ("value", case.v)):
        operands[role] = store(record, role, values[role], text, case.layouts.get(role, "packed"))
    options = _options(record, case, values)
    problem = Problem(
        operands["query"], operands["key"], operands["value"], options, NAMES[case.out]
    )
    exact = _forward(record, case, problem)
    if case.grad is not None:
        _backward(record, case, problem, exact, values["grad_output"])
    return record
