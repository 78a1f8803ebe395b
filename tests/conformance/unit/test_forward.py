"""The reference's forward against independent ways to say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference.backward import Incoming, backward
from reference.forward import forward
from reference.problem import BOTTOM_RIGHT, Operand, Options, Problem
from reference.visibility import visible

from unit.problems import OPTIONS, every_problem, grad_output, problem


def test_plain_attention_is_a_softmax() -> None:
    p = problem(OPTIONS["plain"])
    result = forward(p)
    for b, h in np.ndindex(2, 4):
        s = p.query.values[b, h] @ p.key.values[b, h // 2].T / np.sqrt(3)
        e = np.exp(s)
        np.testing.assert_allclose(
            result.output[b, h],
            (e / e.sum(1, keepdims=True)) @ p.value.values[b, h // 2],
            atol=1e-14,
        )
        np.testing.assert_allclose(result.logsumexp[b, h, :, 0], np.log(e.sum(1)), atol=1e-14)


def test_visibility_in_pictures() -> None:
    def picture(rows_q: int, rows_k: int, **options) -> list[str]:
        return [
            "".join(".#"[int(x)] for x in row)
            for row in visible(Options(**options), rows_q, rows_k)
        ]

    assert picture(3, 5, causal=True) == ["#....", "##...", "###.."]
    assert picture(3, 5, causal=True, alignment=BOTTOM_RIGHT) == ["###..", "####.", "#####"]
    assert picture(5, 3, causal=True, alignment=BOTTOM_RIGHT) == ["...", "...", "#..", "##.", "###"]
    assert picture(3, 5, window=(1, 0)) == ["#....", "##...", ".##.."]
    assert picture(3, 5, window=(0, 1), alignment=BOTTOM_RIGHT) == ["..##.", "...##", "....#"]
    assert picture(3, 5, window=(-1, 1)) == ["##...", "###..", "####."]
    assert picture(3, 4, lengths=[(1, 2), (0, 1), (2, 1)]) == ["##..", "...#", "...#"]
    assert picture(3, 4, lengths=[(1, 2), (2, 2)], causal=True) == ["#...", "..#.", "..##"]


def test_rows_without_keys() -> None:
    p = problem(OPTIONS["mask with hidden"])
    result = forward(p)
    assert (result.output[:, :, 1] == 0).all()
    assert (result.logsumexp[:, :, 1] == -np.inf).all()
    gradients = backward(p, Incoming(grad_output(p), result.logsumexp))
    assert (gradients.query[:, :, 1] == 0).all()
    assert (gradients.d_values[:, :, 1] == 0).all()
    sinks = np.array([0.5, 1.0, -2.0, 0.0])
    with_sinks = forward(replace(p, options=replace(p.options, sinks=sinks)))
    np.testing.assert_allclose(
        with_sinks.logsumexp[:, :, 1, 0], np.broadcast_to(sinks, (2, 4)), atol=1e-15
    )


@pytest.mark.parametrize("hide", ["bool mask", "additive mask", "window"])
def test_nan_in_masked_keys_reaches_nothing(hide: str) -> None:
    clean = problem(Options())
    keep = np.array([True, False, True, True, False, True, False])
    if hide == "window":
        keep = np.array([True] * 5 + [False] * 2)
        options = Options(causal=True)
    else:
        mask = keep if hide == "bool mask" else np.where(keep, 0.0, -np.inf)
        options = Options(mask=mask.reshape(1, 1, 1, -1))
    clean = replace(clean, options=options)

    def poisoned(operand: Operand) -> Operand:
        return Operand(np.where(keep[None, None, :, None], operand.values, np.nan))

    dirty = replace(clean, key=poisoned(clean.key), value=poisoned(clean.value))
    incoming = Incoming(grad_output(clean), forward(clean).logsumexp)
    np.testing.assert_array_equal(forward(dirty).output, forward(clean).output)
    np.testing.assert_array_equal(forward(dirty).logsumexp, forward(clean).logsumexp)
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(
            getattr(backward(dirty, incoming), name), getattr(backward(clean, incoming), name)
        )


def test_nan_in_visible_operands_reaches_the_rows_that_use_it() -> None:
    p = problem(OPTIONS["causal"])
    p.query.values[0, 0, 2, 0] = np.nan
    p.value.values[1, 1, 3, 1] = np.nan
    result = forward(p)
    assert np.isnan(result.output[0, 0, 2]).all()
    assert np.isnan(result.logsumexp[0, 0, 2, 0])
    assert np.isfinite(result.output[0, 0, [0, 1, 3, 4]]).all()
    assert np.isnan(result.output[1, 2:, 3:, 1]).all()
    assert np.isfinite(result.output[1, 2:, :3]).all()
    assert np.isfinite(result.output[1, 2:, :, [0, 2, 3]]).all()


def test_varlen_is_each_sequence_alone() -> None:
    for name in ("varlen", "varlen everything"):
        packed = every_problem()[name]
        whole, q0, k0 = forward(packed), 0, 0
        assert packed.options.lengths is not None
        for n, (rows_q, rows_k) in enumerate(packed.options.lengths):
            mask = packed.options.mask
            options = replace(
                packed.options,
                lengths=None,
                mask=None if mask is None else mask[n : n + 1, :, :rows_q, :rows_k],
            )
            alone = forward(
                Problem(
                    Operand(packed.query.values[:, :, q0 : q0 + rows_q]),
                    Operand(packed.key.values[:, :, k0 : k0 + rows_k]),
                    Operand(packed.value.values[:, :, k0 : k0 + rows_k]),
                    options,
                )
            )
            np.testing.assert_allclose(
                whole.output[:, :, q0 : q0 + rows_q], alone.output, atol=1e-14
            )
            np.testing.assert_allclose(
                whole.logsumexp[:, :, q0 : q0 + rows_q], alone.logsumexp, atol=1e-14
            )
            q0, k0 = q0 + rows_q, k0 + rows_k


def test_empty_keys_and_queries() -> None:
    none = Problem(
        Operand(np.ones((1, 2, 3, 4))),
        Operand(np.ones((1, 1, 0, 4))),
        Operand(np.ones((1, 1, 0, 5))),
    )
    result = forward(none)
    assert result.output.shape == (1, 2, 3, 5)
    assert (result.output == 0).all()
    assert (result.logsumexp == -np.inf).all()
    no_query = replace(none, query=Operand(np.ones((1, 2, 0, 4))))
    assert forward(no_query).output.shape == (1, 2, 0, 5)
