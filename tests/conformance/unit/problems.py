"""Small problems, one for every option, that the tests of the reference share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from reference.portable import normal, uniform
from reference.problem import BOTTOM_RIGHT, Operand, Options, Problem

BATCH, HEADS, KEY_HEADS, ROWS_Q, ROWS_K, D, DV = 2, 4, 2, 5, 7, 3, 4


def additive(*shape: int) -> np.ndarray:
    return normal("additive mask", shape)


def boolean(*shape: int) -> np.ndarray:
    return uniform("boolean mask", shape) < 0.7


def with_hidden(mask: np.ndarray) -> np.ndarray:
    """Some elements at -infinity, a whole row among them."""
    hidden = np.where(uniform("hidden", mask.shape) < 0.3, -np.inf, mask)
    hidden[..., 1, :] = -np.inf
    return hidden


OPTIONS: dict[str, Options] = {
    "plain": Options(),
    "scale": Options(scale=-0.7),
    "softcap": Options(softcap=0.8),
    "causal": Options(causal=True),
    "causal bottom right": Options(causal=True, alignment=BOTTOM_RIGHT),
    "window": Options(window=(1, 2)),
    "window left only, causal": Options(window=(2, -1), causal=True, alignment=BOTTOM_RIGHT),
    "alibi": Options(alibi_slopes=np.array([[0.5, 0.25, 0.125, 1.0]]), alignment=BOTTOM_RIGHT),
    "alibi per batch": Options(alibi_slopes=uniform("slopes", (BATCH, HEADS))),
    "sinks": Options(sinks=np.array([0.3, -1.0, 2.0, 0.0])),
    "bool mask": Options(mask=boolean(BATCH, HEADS, ROWS_Q, ROWS_K)),
    "bool key padding": Options(mask=boolean(BATCH, 1, 1, ROWS_K)),
    "mask": Options(mask=additive(BATCH, HEADS, ROWS_Q, ROWS_K)),
    "mask over heads": Options(mask=additive(1, HEADS, 1, ROWS_K)),
    "mask over rows": Options(mask=additive(BATCH, 1, ROWS_Q, 1)),
    "mask with hidden": Options(mask=with_hidden(additive(1, 1, ROWS_Q, ROWS_K))),
    "everything": Options(
        softcap=1.5,
        causal=True,
        alignment=BOTTOM_RIGHT,
        window=(3, 1),
        mask=with_hidden(additive(BATCH, 1, ROWS_Q, ROWS_K)),
        alibi_slopes=uniform("slopes", (1, HEADS)),
        sinks=np.array([0.3, -1.0, 2.0, 0.0]),
    ),
}
VARLEN = {
    "varlen": Options(lengths=[(2, 3), (0, 2), (3, 0), (4, 5)]),
    "varlen everything": Options(
        lengths=[(2, 3), (0, 2), (3, 0), (4, 5)],
        causal=True,
        alignment=BOTTOM_RIGHT,
        mask=additive(4, 1, 4, 5),
        alibi_slopes=uniform("slopes", (1, HEADS)),
        sinks=np.array([0.3, -1.0, 2.0, 0.0]),
    ),
}


def problem(options: Options, d: int = D, dv: int = DV) -> Problem:
    batch, rows_q, rows_k = BATCH, ROWS_Q, ROWS_K
    if options.lengths is not None:
        batch, rows_q, rows_k = (
            1,
            sum(q for q, _ in options.lengths),
            sum(k for _, k in options.lengths),
        )
    return Problem(
        Operand(normal("query", (batch, HEADS, rows_q, d))),
        Operand(normal("key", (batch, KEY_HEADS, rows_k, d))),
        Operand(normal("value", (batch, KEY_HEADS, rows_k, dv))),
        options,
    )


def every_problem() -> dict[str, Problem]:
    return {name: problem(options) for name, options in {**OPTIONS, **VARLEN}.items()}


def grad_output(of: Problem) -> Operand:
    batch, heads, rows_q, _ = of.query.values.shape
    return Operand(normal("grad output", (batch, heads, rows_q, of.value.values.shape[3])))


def changed(of: Problem, name: str, values: np.ndarray) -> Problem:
    """The same problem with one differentiable input replaced."""
    if name in ("query", "key", "value"):
        return replace(of, **{name: Operand(values)})
    return replace(of, options=replace(of.options, **{name: values}))


def inputs(of: Problem) -> dict[str, np.ndarray]:
    """The differentiable inputs by name."""
    found = {name: getattr(of, name).values for name in ("query", "key", "value")}
    if of.options.mask is not None and of.options.mask.dtype != np.bool_:
        found["mask"] = of.options.mask
    if of.options.sinks is not None:
        found["sinks"] = of.options.sinks
    return found
