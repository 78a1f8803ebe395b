"""Options at every door: one table, and what is accepted is applied."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plain
import pytest

import umfa
from umfa import _native

Draw = Callable[..., npt.NDArray[np.float32]]

TABLE = _native._options()
POSITIONAL = {"q", "k", "v", "context", "ctx", "grad_out", "out", "lse"}
FORWARD = ("attention", "quantized_attention", "flash_attention_forward")


def keywords(signature: inspect.Signature) -> list[tuple[str, str]]:
    only = inspect.Parameter.KEYWORD_ONLY
    return [(p.name, repr(p.default)) for p in signature.parameters.values() if p.kind is only]


@pytest.mark.parametrize("door", [name for name in TABLE if hasattr(umfa, name)])
def test_signatures_and_stubs_are_the_table(door: str) -> None:
    expected = [(name, default) for name, default, _ in TABLE[door]]
    assert keywords(inspect.signature(getattr(umfa, door))) == expected
    stub = ast.parse(Path(umfa.__file__).with_name("_native.pyi").read_text("utf-8"))
    overloads = [n for n in stub.body if isinstance(n, ast.FunctionDef) and n.name == door]
    assert overloads
    for found in overloads:
        arguments = found.args.kwonlyargs
        assert [a.arg for a in arguments] == [name for name, _ in expected]
        for argument, default, (name, value, kind) in zip(
            arguments, found.args.kw_defaults, TABLE[door]
        ):
            if name == "return_logsumexp" and len(overloads) > 1:
                continue  # what the overloads differ in
            assert argument.annotation is not None
            assert default is not None
            assert ast.unparse(argument.annotation) == kind, (door, name)
            assert ast.unparse(default) == value, (door, name)


def call(door: str, q: Any, k: Any, v: Any, **options: Any) -> Any:
    """A call through a door that gives a result."""
    if door == "flash_attention_forward":
        with umfa.MFAContext() as context:
            return umfa.flash_attention_forward(context, q, k, v, **options)
    if door == "SDPA":
        return umfa.SDPA(**options)(q, k, v)
    return getattr(umfa, door)(q, k, v, **options)


DOORS = ("attention", "flash_attention_forward", "explain", "workspace_size", "sdpa", "SDPA")

NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"window": (-5, 0)}, "window: -5, expected 0 or more, or None for no limit"),
    ({"window": [0, np.int8(-3)]}, "window: -3, expected 0 or more"),
    ({"window": 10**30}, r"window: 10+, expected less than 2\*\*63"),
    ({"window": (None, 1 << 63)}, r"window: 9223372036854775808, expected less than 2\*\*63"),
    ({"window": (1, 2, 3)}, r"window: \(1, 2, 3\), expected an int or \(left, right\)"),
    ({"window": True}, "window: True, expected an int"),
    ({"window": (1.0, 0)}, "window: 1.0, expected an int or None"),
    ({"softcap": 1e-50}, r"softcap: 1e-50, expected 0 \(none\), or at least 1.2e-38"),
    ({"softcap": np.float64(-1e-50)}, r"softcap: .*-1e-50.*, expected"),
    ({"softcap": -2}, r"softcap: -2, expected 0 \(none\) or more"),
    ({"softcap": True}, "softcap: True, expected a number"),
    ({"granularity": "row"}, "granularity: given, but nothing is quantized with it"),
    ({"granularity": {"v": "row"}, "precision": {"k": "int8"}}, r"granularity\['v'\]: given, but"),
    ({"rotate": True}, "rotate: given, but nothing is quantized"),
    ({"smooth": True}, "smooth: given, but nothing is quantized"),
    ({"smooth": True, "precision": {"v": "int8"}}, "smooth: given, but nothing is quantized"),
    ({"symmetric": False}, "symmetric: given, but nothing is quantized"),
    ({"scale_dtype": "float16"}, "scale_dtype: given, but nothing is quantized"),
    ({"group": 32}, "group: given, but nothing is quantized"),
    ({"block_rows": 16}, "block_rows: given, but nothing is quantized"),
    ({"group": 64, "precision": "int8"}, 'group: given with granularity "tensor"'),
    ({"block_rows": 16, "precision": "int8", "granularity": "row"},
     'block_rows: given with granularity "row"'),
    ({"zero_point_dtype": "int32", "precision": "int8"},
     "zero_point_dtype: given with .*symmetric=True"),
    ({"causal": "yes"}, "causal: 'yes', expected True or False"),
    ({"alignment": "centre"}, 'alignment: "centre", expected "top_left" or "bottom_right"'),
    ({"layout": "HBND"}, 'layout: "HBND", expected "BHND" or "BNHD"'),
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("options", "message"), NONSENSE)
def test_nonsense_is_refused_alike_at_every_door(
    door: str, options: dict[str, Any], message: str
) -> None:
    x = np.ones((1, 2, 64, 64), np.float32)
    with pytest.raises(umfa.InvalidArgument, match=message) as caught:
        call(door, x, x, x, **options)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("door", DOORS)
def test_names_of_others_are_refused_with_the_name_here(door: str) -> None:
    x = np.ones((1, 2, 4, 8), np.float32)
    torch_door = door in ("sdpa", "SDPA")
    names = {"mask": "attn_mask", "window_size": "window", "sm_scale": "softmax_scale"}
    if torch_door:
        names["sm_scale"] = "scale"
    else:
        names |= {"is_causal": "causal", "scale": "softmax_scale"}
    for name, ours in names.items():
        with pytest.raises(TypeError, match=f"'{name}'; it is called {ours} here"):
            call(door, x, x, x, **{name: 1})
    if torch_door:
        for name in ("out", "return_logsumexp"):
            with pytest.raises(TypeError, match=f"'{name}'; umfa.attention takes it"):
                call(door, x, x, x, **{name: None})
    with pytest.raises(TypeError, match="'clip'; flash_attention_backward takes it"):
        call(door, x, x, x, clip=True)


@pytest.mark.parametrize("window", [
    np.int64(3), np.array(3), (np.int32(3), np.uint8(3)), [3, 3], np.array([3, 3])
])  # fmt: skip
@pytest.mark.parametrize("door", ["attention", "flash_attention_forward", "sdpa", "SDPA"])
def test_windows_of_any_integers(normal: Draw, door: str, window: Any) -> None:
    q, k = normal(1, 2, 20, 8), normal(1, 2, 20, 8)
    expected = umfa.attention(q, k, k, window=3)
    np.testing.assert_array_equal(call(door, q, k, k, window=window), expected)
    half = umfa.attention(q, k, k, window=(3, None))
    for one_side in ([3, None], (np.int16(3), -1)):
        np.testing.assert_array_equal(call(door, q, k, k, window=one_side), half)


@pytest.mark.parametrize("form", [list, tuple, np.float64, np.float16, "bfloat16", "torch", "int"])
@pytest.mark.parametrize("name", ["sinks", "alibi_slopes"])
def test_numbers_for_heads_are_converted(normal: Draw, name: str, form: Any, request: Any) -> None:
    q, k = normal(2, 4, 20, 8), normal(2, 4, 20, 8)
    values = np.array([0.5, 1.0, 2.0, -3.0], np.float32)
    given: Any
    if form in (list, tuple):
        given = form(values.tolist())
    elif form == "torch":
        given = request.getfixturevalue("torch").tensor(values).bfloat16()
    elif form == "int":
        values = np.array([1, 0, 2, -3], np.float32)
        given = values.astype(np.int64)
    elif form == "bfloat16":
        given = values.astype(request.getfixturevalue("ml_dtypes").bfloat16)
    else:
        given = values.astype(form)
    attend: Any = umfa.attention
    expected = attend(q, k, k, **{name: values})
    np.testing.assert_array_equal(attend(q, k, k, **{name: given}), expected)
    if name == "alibi_slopes" and form is list:
        both = umfa.attention(q, k, k, alibi_slopes=[given, given])
        np.testing.assert_array_equal(both, expected)


def test_sinks_of_minus_infinity_are_none(normal: Draw) -> None:
    q = normal(1, 2, 5, 8)
    found = umfa.attention(q, q, q, sinks=[-np.inf, -np.inf])
    np.testing.assert_allclose(found, umfa.attention(q, q, q), rtol=1e-6)


@pytest.mark.parametrize("name", ["causal", "is_causal"])
def test_causal_is_applied_at_the_doors_of_torch(normal: Draw, name: str) -> None:
    for shape, keys in (((1, 2, 6, 8), 6), ((3, 5, 8), 9), ((2, 2, 2, 4, 8), 7)):
        q, k = normal(*shape), normal(*shape[:-2], keys, shape[-1])
        rows = np.arange(shape[-2])[:, None] >= np.arange(keys)
        expected = umfa.sdpa(q, k, k, attn_mask=rows)
        for found in (
            call("sdpa", q, k, k, **{name: True}),
            call("SDPA", q, k, k, **{name: True}),
            umfa.SDPA()(q, k, k, is_causal=True),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    quick = umfa.SDPA(causal=False)
    with pytest.raises(umfa.InvalidArgument, match="is_causal: given together with causal"):
        quick(q, k, k, is_causal=True)


@pytest.mark.parametrize("name", ["softmax_scale", "scale"])
def test_scale_is_applied_at_the_doors_of_torch(normal: Draw, name: str) -> None:
    q, k = normal(2, 3, 6, 8), normal(2, 3, 7, 8)
    expected = plain.attention(q, k, k, scale=3.0)[0]
    for door in ("sdpa", "SDPA"):
        found = call(door, q, k, k, **{name: 3.0})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(umfa.InvalidArgument, match="scale: given together with softmax_scale"):
        umfa.sdpa(q, k, k, scale=0.5, softmax_scale=3.0)


def test_arguments_are_called_as_torch_calls_them(normal: Draw) -> None:
    q, k = normal(1, 2, 6, 8), normal(1, 2, 7, 8)
    with pytest.raises(umfa.InvalidDimensions, match=r"^value: shape .*, expected 7 rows as key"):
        umfa.sdpa(q, k, normal(1, 2, 8, 8))
    with pytest.raises(umfa.InvalidArgument, match=r"^scale: nan, expected a finite"):
        umfa.sdpa(q, k, k, scale=float("nan"))
    with pytest.raises(umfa.InvalidType, match=r"^is_causal: 'no', expected True or False"):
        umfa.sdpa(q, k, k, is_causal="no")  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(umfa.InvalidType, match=r"^key: dtype int16"):
        umfa._native._sdpa(q, k.astype(np.int16), k)
    with pytest.raises(umfa.InvalidDimensions, match=r"^value: head dimension"):
        umfa.sdpa(normal(1, 1, 2, 8), normal(1, 1, 2, 8), normal(1, 1, 2, 0))
    with pytest.raises(umfa.InvalidArgument, match=r"^softcap: -1"):
        umfa.SDPA(softcap=-1)


def test_layout_at_the_doors_of_torch(normal: Draw) -> None:
    for shapes in (((2, 6, 4, 8), (2, 9, 2, 8)), ((6, 4, 8), (9, 4, 8)), ((3, 2, 6, 4, 8),) * 2):
        q, k = (normal(*shape) for shape in shapes)
        bias = normal(q.shape[-3], k.shape[-3])
        grouped = q.shape[-2] != k.shape[-2]
        swapped = [x.swapaxes(-2, -3) for x in (q, k)]
        expected = umfa.sdpa(swapped[0], swapped[1], swapped[1], bias, enable_gqa=grouped)
        found = umfa.sdpa(q, k, k, attn_mask=bias, enable_gqa=grouped, layout="BNHD")
        np.testing.assert_array_equal(found.swapaxes(-2, -3), expected)
    with pytest.raises(umfa.InvalidDimensions, match='did you mean layout="BNHD"'):
        umfa.sdpa(normal(2, 16, 4, 8), normal(2, 20, 4, 8), normal(2, 20, 4, 8))


def test_precision_of_what_is_quantized_already(normal: Draw) -> None:
    q, k = normal(1, 2, 6, 8), normal(1, 2, 7, 8)
    k8 = umfa.quantize(k)
    options: Any = {"precision": {"k": "int8"}}
    with pytest.raises(umfa.InvalidArgument, match="precision: given for k, which is a Quantized"):
        umfa.attention(q, k8, k, **options)
    with pytest.raises(umfa.InvalidArgument, match="precision: given for q, which is a Quantized"):
        umfa.attention(umfa.quantize(q), k8, k8, precision="int8")
    umfa.attention(q, k8, k, precision="int8")  # q and v


def test_settings_serve_those_that_are_quantized(normal: Draw) -> None:
    q, k, v = normal(1, 2, 6, 64), normal(1, 2, 70, 64), normal(1, 2, 70, 64)
    options: Any = {"precision": {"k": "int8", "v": "int8"}, "block_rows": 16, "group": 32,
                    "granularity": {"k": "block", "v": "row"}}  # fmt: skip
    found = umfa.attention(q, k, v, **options)
    k8 = umfa.quantize(k, "int8", "block", block_rows=16)
    expected = umfa.attention(q, k8, umfa.quantize(v, "int8", "row", group=32))
    np.testing.assert_array_equal(found, expected)


def test_smoothing_of_values_by_name(normal: Draw) -> None:
    q, k, v = normal(1, 2, 6, 16), normal(1, 2, 70, 16), normal(1, 2, 70, 16) + 10
    exact = umfa.attention(q, k, v)
    options: Any = {"precision": {"v": "int8"}}
    coarse = umfa.attention(q, k, v, **options)
    fine = umfa.attention(q, k, v, smooth={"v": True}, **options)
    assert plain.rms(fine - exact) < 0.5 * plain.rms(coarse - exact)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint16"])
def test_masks_of_integers_are_refused_with_a_hint(dtype: str) -> None:
    x = np.ones((1, 1, 4, 8), np.float32)
    with pytest.raises(umfa.InvalidType, match=rf"dtype {dtype}, .*mask\.astype\(bool\)"):
        umfa.attention(x, x, x, attn_mask=np.ones((4, 4), dtype))


def test_masks_of_another_library(normal: Draw, torch: Any) -> None:
    q = normal(2, 2, 6, 8)
    mask = np.tri(6, dtype=bool)
    expected = umfa.attention(q, q, q, attn_mask=mask)
    for door in (umfa.attention, umfa.sdpa):
        np.testing.assert_array_equal(door(q, q, q, attn_mask=torch.tensor(mask)), expected)
    ints = torch.ones(6, 6, dtype=torch.int32)
    with pytest.raises(umfa.InvalidType, match=r"dtype torch.int32, .*mask\.bool\(\)"):
        umfa.attention(q, q, q, attn_mask=ints)


def test_what_stands_in_the_place_of_the_context(normal: Draw) -> None:
    q = normal(1, 2, 6, 8)
    doors: list[Any] = [umfa.attention, umfa.quantized_attention, umfa.explain]
    for door in (*doors, umfa.workspace_size):
        with pytest.raises(umfa.InvalidType, match=r"context: ndarray, .*did you mean attn_mask"):
            door(q, q, q, np.ones((6, 6), bool))
        with pytest.raises(umfa.InvalidType, match=r"context: bool, .*did you mean causal"):
            door(q, q, q, True)
        with pytest.raises(umfa.InvalidType, match=r"context: 'cpu', .*umfa.MFAContext\('cpu'\)"):
            door(q, q, q, context="cpu")
    forward: Any = umfa.flash_attention_forward
    with pytest.raises(umfa.InvalidType, match="ctx: ndarray, expected an MFAContext; it comes"):
        forward(q, q, q, q)
    with pytest.raises(umfa.InvalidType, match="ctx: None, expected an MFAContext"):
        forward(None, q, q, q)
    with pytest.raises(umfa.InvalidType, match="context: 'cpu', expected an MFAContext"):
        umfa.quantize(q, context="cpu")  # type: ignore[arg-type, unused-ignore]


def test_checked_options_have_one_form() -> None:
    check = _native._check_options
    found = check(
        "scaled_dot_product_attention",
        {"is_causal": np.True_, "scale": 2, "window": [np.int8(3), None], "softcap": None,
         "precision": {"k": np.int8}, "granularity": "row", "rotate": False},
    )  # fmt: skip
    assert found == {
        "causal": True,
        "softmax_scale": 2.0,
        "window": (3, -1),
        "precision": {"k": "int8"},
        "granularity": {"k": "row"},
    }
    assert check("attention", found) == found
    with pytest.raises(umfa.InvalidArgument, match='function: "front"'):
        check("front", {})
