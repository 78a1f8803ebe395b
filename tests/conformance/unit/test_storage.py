"""Rounding, packing and quantization of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import portable, precision, quantize
from reference.precision import BF16, FP16, INT4, INT8
from reference.quantize import BLOCK, CHANNEL, ROW, TENSOR, Scheme


def test_portable_functions_agree_with_the_mathematics_library() -> None:
    x = np.concatenate([np.linspace(-745, 709, 4001), np.linspace(-1, 1, 2001)])
    np.testing.assert_allclose(portable.exp(x), [math.exp(v) for v in x], rtol=4e-16, atol=5e-324)
    positive = np.concatenate([np.geomspace(1e-300, 1e300, 4001), np.linspace(0.5, 2, 2001)])
    np.testing.assert_allclose(
        portable.log(positive), [math.log(v) for v in positive], rtol=5e-16, atol=2e-16
    )
    np.testing.assert_allclose(portable.tanh(x), np.tanh(x), atol=4e-16)
    special = np.array([np.nan, -np.inf, np.inf, 0.0])
    np.testing.assert_array_equal(portable.exp(special), [np.nan, 0.0, np.inf, 1.0])
    np.testing.assert_array_equal(portable.log(special), [np.nan, np.nan, np.inf, -np.inf])


def test_portable_sums_and_numbers() -> None:
    a, b = portable.normal("a", (3, 4, 5)), portable.normal("b", (3, 5, 6))
    np.testing.assert_allclose(portable.matmul(a, b), a @ b, atol=1e-14)
    np.testing.assert_allclose(portable.total(a, 1), a.sum(1, keepdims=True), atol=1e-14)
    b[:, 2] = np.nan
    keep = np.ones((3, 4, 5), bool)
    keep[..., 2] = False
    assert np.isfinite(portable.matmul(a, b, keep=keep)).all()
    sample = portable.normal("sample", (100_000,))
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert sorted(portable.permutation("p", 9)) == list(range(9))


def test_rounding_to_bfloat16() -> None:
    one, ulp = 1.0, 2.0**-7
    cases = {
        one + ulp / 2: one,
        one + 3 * ulp / 2: one + 2 * ulp,
        one + ulp * 0.51: one + ulp,
        3.4e38: np.inf,
        1e-40: 9.9e-41,
    }
    for value, expected in cases.items():
        assert precision.rounded(np.array([value]), BF16)[0] == pytest.approx(expected, rel=0.01)
    assert precision.rounded(np.array([one + ulp / 2]), BF16)[0] == one
    assert np.isnan(precision.rounded(np.array([np.nan]), BF16)[0])
    assert precision.rounded(np.array([65520.0]), FP16)[0] == np.inf


def test_int4_packing() -> None:
    n = np.arange(-8, 8, dtype=np.int8)
    packed = precision.pack_int4(n)
    assert packed[0] == 0x98
    assert packed[4] == 0x10
    assert packed[7] == 0x76
    np.testing.assert_array_equal(precision.unpack_int4(packed), n)


@pytest.mark.parametrize("columns", [1, 2, 6, 12, 64, 80])
def test_hadamard_is_orthonormal_and_its_own_inverse(columns: int) -> None:
    matrix = quantize.hadamard(np.eye(columns))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)
    np.testing.assert_allclose(matrix @ matrix, np.eye(columns), atol=1e-14)
    block = columns & -columns
    assert (matrix[:block, block:] == 0).all()
    np.testing.assert_allclose(np.abs(matrix[:block, :block]), 1 / np.sqrt(block), atol=1e-15)


SHAPE = (2, 3, 10, 70)


@pytest.mark.parametrize("code", [INT8, INT4])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(
    ("granularity", "block_rows", "group_size", "scales"),
    [
        (TENSOR, 0, 0, (1, 1, 1, 1)),
        (ROW, 0, 0, (2, 3, 10, 1)),
        (ROW, 0, 32, (2, 3, 10, 3)),
        (BLOCK, 4, 0, (2, 3, 3, 1)),
        (CHANNEL, 4, 0, (2, 3, 3, 70)),
    ],
)
def test_round_trip_is_within_half_a_step(
    code: int,
    asymmetric: bool,
    smooth: bool,
    rotated: bool,
    granularity: int,
    block_rows: int,
    group_size: int,
    scales,
) -> None:
    scheme = Scheme(code, granularity, block_rows, group_size, asymmetric, smooth, rotated)
    x = portable.normal("round trip", SHAPE) + 0.5
    stored = quantize.quantize(x, scheme)
    assert stored.scale.shape == scales
    assert stored.data.min() >= scheme.lowest
    error = quantize.dequantize(stored) - x
    if rotated:
        error = quantize.hadamard(error)
    # An asymmetric zero point is rounded, so an end of the range may be cut by up to half a step
    # more.
    steps = 1.0 if asymmetric else 0.5
    assert (
        np.abs(error) <= steps * 1.0001 * quantize.expand(stored.scale, SHAPE, scheme) + 1e-6
    ).all()


def test_symmetric_by_hand() -> None:
    x = np.array([127.0, -127.0, 0.5, 1.5, -2.5, 126.5, 0.0, 1.0]).reshape(1, 1, 2, 4)
    stored = quantize.quantize(x, Scheme(INT8))
    assert stored.scale.item() == 1
    assert stored.data.reshape(-1).tolist() == [127, -127, 0, 2, -2, 126, 0, 1]
    assert quantize.quantize(np.zeros((1, 1, 2, 4)), Scheme(INT8)).scale.item() == 1
    assert not quantize.inside(stored)[0, 0, 0, :2].any()
    assert quantize.inside(stored)[0, 0, 0, 2:].all()


def test_asymmetric_by_hand() -> None:
    x = np.array([-1.0, 0.0, 3.0, 14.0]).reshape(1, 1, 1, 4)
    stored = quantize.quantize(x, Scheme(INT4, asymmetric=True))
    assert stored.scale.item() == 1
    assert stored.zero_point.item() == -7
    assert stored.data.reshape(-1).tolist() == [-8, -7, -4, 7]
    positive = quantize.quantize(x + 1, Scheme(INT4, asymmetric=True))
    assert positive.zero_point.item() == -8, "the range includes 0"
