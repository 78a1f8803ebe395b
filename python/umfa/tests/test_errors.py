"""Bad input: the documented exception, a message, and an output that is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import umfa

Draw = Callable[..., npt.NDArray[np.float32]]
Case = tuple[str, type[umfa.MFAError], str, Callable[[], dict[str, Any]]]

Q, K, V = (2, 4, 5, 16), (2, 2, 7, 16), (2, 2, 7, 8)


def zeros(*shape: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
    return np.zeros(shape, dtype)


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.lib.stride_tricks.as_strided(np.zeros(64, dtype), shape, strides)


def misaligned() -> npt.NDArray[np.float32]:
    return np.zeros(4 * 2 * 4 * 5 * 16 + 4, np.uint8)[1:-3].view(np.float32).reshape(Q)


def read_only() -> npt.NDArray[np.float32]:
    out = zeros(2, 4, 5, 8)
    out.flags.writeable = False
    return out


SHAPE = umfa.InvalidDimensions
WRONG = umfa.InvalidArgument
TYPE = umfa.InvalidType

CASES: list[Case] = [
    # operands that are no arrays, or of other elements
    ("a list", TYPE, "q: list, expected an array", lambda: {"q": [[1.0]]}),
    ("None", TYPE, "k: NoneType, expected an array", lambda: {"k": None}),
    ("a number", TYPE, "v: int, expected an array", lambda: {"v": 3}),
    ("float64 of q", TYPE, r"^k: dtype float32, expected float64 beside q of float64; convert one",
     lambda: {"q": zeros(*Q, dtype=float)}),
    ("float64 of v", TYPE,
     r"^v: dtype float64, expected float32, float16 or bfloat16 beside q of float32; convert one",
     lambda: {"v": zeros(*V, dtype=float)}),
    ("longdouble", TYPE, "^k: dtype", lambda: {"k": zeros(*K, dtype=np.longdouble)}),
    ("integers", TYPE, "k: dtype int8, expected float32", lambda: {"k": zeros(*K, dtype=np.int8)}),
    ("complex", TYPE, "v: dtype complex64", lambda: {"v": zeros(*V, dtype=np.complex64)}),
    ("swapped bytes", TYPE, "q: dtype >f4", lambda: {"q": zeros(*Q, dtype=">f4")}),
    ("a record", TYPE, "q: dtype", lambda: {"q": zeros(2, 5, dtype=[("x", np.float32)])}),
    ("masked", TYPE, "q: a masked array", lambda: {"q": np.ma.masked_array(zeros(*Q))}),
    # shapes
    ("rank 1", SHAPE, r"q: shape \(16,\), expected rank 2, 3 or 4", lambda: {"q": zeros(16)}),
    ("rank 5", SHAPE, "q: rank 5, expected at most 4", lambda: {"q": zeros(1, *Q)}),
    ("other rank", SHAPE, r"k: shape \(7, 16\), expected rank 4 as q", lambda: {"k": zeros(7, 16)}),
    ("other batch", SHAPE,
     r"^k: shape \(3, 2, 7, 16\), expected batch 2 as q with shape \(2, 4, 5, 16\)$",
     lambda: {"k": zeros(3, 2, 7, 16)}),
    ("other columns", SHAPE, r"^k: shape \(2, 2, 7, 24\), expected 16 columns as q",
     lambda: {"k": zeros(2, 2, 7, 24)}),
    ("other rows of v", SHAPE, r"^v: shape \(2, 2, 8, 8\), expected 7 rows as k",
     lambda: {"v": zeros(2, 2, 8, 8)}),
    ("other heads of v", SHAPE, r"^v: shape \(2, 1, 7, 8\), expected 2 heads as k",
     lambda: {"v": zeros(2, 1, 7, 8)}),
    ("heads that don't divide", SHAPE,
     r"^q: shape \(2, 3, 5, 16\) has 3 heads, expected a multiple of the 2 key/value heads of k",
     lambda: {"q": zeros(2, 3, 5, 16), "out": zeros(2, 3, 5, 8)}),
    ("no heads", SHAPE, "", lambda: {"k": zeros(2, 0, 7, 16), "v": zeros(2, 0, 7, 8)}),
    ("1025 columns", SHAPE, "^q: head dimension is 1025",
     lambda: {"q": zeros(2, 4, 5, 1025), "k": zeros(2, 2, 7, 1025)}),
    ("1025 value columns", SHAPE, "1025", lambda: {"v": zeros(2, 2, 7, 1025)}),
    # memory
    ("negative stride", SHAPE, r"q: stride -64 bytes in dimension 2.*ascontiguousarray",
     lambda: {"q": zeros(*Q)[:, :, ::-1]}),
    ("odd stride", SHAPE, "q: stride 6 bytes in dimension 3, expected a multiple of the 4",
     lambda: {"q": strided((2, 4, 5, 16), (0, 0, 0, 6))}),
    ("misaligned", WRONG, "q: memory at address 0x", lambda: {"q": misaligned()}),
    # masks and the like
    ("mask of integers", TYPE, r"attn_mask: dtype int64, expected .*mask\.astype\(bool\)",
     lambda: {"attn_mask": zeros(5, 7, dtype=np.int64)}),
    ("mask of float64", TYPE, "attn_mask: dtype float64",
     lambda: {"attn_mask": zeros(5, 7, dtype=float)}),
    ("mask of no rank", SHAPE, "attn_mask", lambda: {"attn_mask": np.float32(0).reshape(())}),
    ("mask that doesn't broadcast", SHAPE,
     r"^attn_mask: shape \(5, 6\), expected one that broadcasts to \(2, 4, 5, 7\)$",
     lambda: {"attn_mask": zeros(5, 6)}),
    ("mask of other heads", SHAPE, "mask", lambda: {"attn_mask": zeros(3, 5, 7)}),
    ("mask of other batch", SHAPE, "mask", lambda: {"attn_mask": zeros(3, 1, 5, 7)}),
    ("slopes of text", TYPE, "alibi_slopes: dtype <U1, expected float32",
     lambda: {"alibi_slopes": ["a", "b", "c", "d"]}),
    ("sinks of bools", TYPE, "sinks: dtype bool, expected float32",
     lambda: {"sinks": zeros(4, dtype=bool)}),
    ("sinks beyond float32", WRONG, "sinks: .*1e\\+39.*, expected numbers that float32 holds",
     lambda: {"sinks": [0.0, 1e39, 0.0, 0.0]}),
    ("sinks of two batches", SHAPE, r"sinks: shape \(2, 4\), expected \(4,\)",
     lambda: {"sinks": zeros(2, 4)}),
    ("uneven sinks", TYPE, "sinks: .*expected one number for each head",
     lambda: {"sinks": [[0.0], [0.0, 1.0]]}),
    ("slopes of other heads", SHAPE, r"alibi_slopes: shape \(3,\), expected \(4,\)",
     lambda: {"alibi_slopes": zeros(3)}),
    ("slopes of rank 3", SHAPE, "alibi_slopes", lambda: {"alibi_slopes": zeros(2, 4, 1)}),
    ("sinks of other heads", SHAPE, "", lambda: {"sinks": zeros(2)}),
    # numbers
    ("NaN scale", WRONG, "softmax_scale: nan", lambda: {"softmax_scale": float("nan")}),
    ("infinite scale", WRONG, "softmax_scale: inf", lambda: {"softmax_scale": float("inf")}),
    ("scale beyond float32", WRONG, "softmax_scale: 1e\\+39", lambda: {"softmax_scale": 1e39}),
    ("scale as text", TYPE, "softmax_scale: 'x', expected a number",
     lambda: {"softmax_scale": "x"}),
    ("negative softcap", WRONG, "", lambda: {"softcap": -1.0}),
    ("infinite softcap", WRONG, "softcap: inf", lambda: {"softcap": float("inf")}),
    ("window of -2", WRONG, "window: -2", lambda: {"window": (-2, 0)}),
    ("window of three", TYPE, r"window: \(1, 2, 3\)", lambda: {"window": (1, 2, 3)}),
    ("window of text", TYPE, "window: 'x'", lambda: {"window": "x"}),
    # names
    ("layout", WRONG, '"BDNH", expected "BHND" or "BNHD"', lambda: {"layout": "BDNH"}),
    ("alignment", WRONG, '"left", expected "top_left" or "bottom_right"',
     lambda: {"alignment": "left"}),
    ("compute", WRONG, '"slow", expected "exact" or "fast"', lambda: {"compute": "slow"}),
    ("precision", WRONG, 'precision: "int5", expected "int8" or "int4"',
     lambda: {"precision": "int5"}),
    ("precision code", TYPE, "precision: 8, expected", lambda: {"precision": 8}),
    ("precision of o", WRONG, "precision: key 'o', expected",
     lambda: {"precision": {"o": "int8"}}),
    ("granularity", WRONG, '"cell", expected "tensor"', lambda: {"granularity": "cell"}),
    ("causal as text", TYPE, "causal: 'yes', expected True or False", lambda: {"causal": "yes"}),
    # quantization on the fly
    ("group without rows", WRONG, "group: given with granularity \"tensor\"",
     lambda: {"precision": "int8", "group": 32}),
    ("group of 48", WRONG, "group: 48, expected None, 32 or 64", lambda: {"group": 48}),
    ("no block rows", WRONG, "block_rows: 0, expected at least 1", lambda: {"block_rows": 0}),
    ("NaN to quantize", WRONG, r"^k: the element at .*not finite",
     lambda: {"k": np.full(K, np.nan, np.float32), "precision": "int8"}),
    ("odd columns to int4", SHAPE, "v: ",
     lambda: {"v": zeros(2, 2, 7, 9), "precision": "int4", "out": zeros(2, 4, 5, 9)}),
    # packed sequences
    ("one of two", WRONG, "only one is given", lambda: {"cu_seqlens_q": [0, 5]}),
    ("batch of two", SHAPE, "", lambda: {"cu_seqlens_q": [0, 5], "cu_seqlens_k": [0, 7]}),
    # outputs
    ("read-only", WRONG, "out: a read-only array", lambda: {"out": read_only()}),
    ("shape of out", SHAPE, r"out: shape \(2, 4, 5, 9\), expected \(2, 4, 5, 8\)",
     lambda: {"out": zeros(2, 4, 5, 9)}),
    ("dtype of out", TYPE, "out: dtype int32", lambda: {"out": zeros(2, 4, 5, 8, dtype=np.int32)}),
    ("out that overlaps itself", SHAPE, "",
     lambda: {"out": strided((2, 4, 5, 8), (0, 0, 0, 4))}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message", "change"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input(
    normal: Draw,
    error: type[umfa.MFAError],
    message: str,
    change: Callable[[], dict[str, Any]],
) -> None:
    arguments: dict[str, Any] = {"q": normal(*Q), "k": normal(*K), "v": normal(*V)}
    out = np.full((2, 4, 5, 8), 42, np.float32)
    arguments.setdefault("out", out)
    arguments.update(change())
    given = arguments["out"]
    before = given.copy()
    with pytest.raises(error) as caught:
        umfa.attention(**arguments)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "expected" in text
    assert caught.value.code == error.code
    np.testing.assert_array_equal(given, before)


def test_wrong_shapes_and_dtypes_are_what_python_expects() -> None:
    assert issubclass(umfa.InvalidDimensions, ValueError)
    assert issubclass(umfa.InvalidArgument, ValueError)
    assert issubclass(umfa.InvalidType, TypeError)
    assert issubclass(umfa.BufferAllocation, MemoryError)
    assert issubclass(umfa.KernelExecution, RuntimeError)
    assert issubclass(umfa.Unsupported, NotImplementedError)
    kinds = {kind.code: kind for kind in umfa.MFAError.__subclasses__()}
    assert sorted(kinds) == [1, 2, 3, 4, 5, 6]


def test_unknown_keywords_are_refused_by_name() -> None:
    x = zeros(4, 8)
    with pytest.raises(
        TypeError, match=r"attention\(\) got an unexpected keyword argument 'casual'"
    ):
        umfa.attention(x, x, x, casual=True)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"explain\(\) got an unexpected keyword argument 'x'"):
        umfa.explain(x, x, x, x=1)  # type: ignore[call-arg]


def test_out_must_not_share_memory_with_inputs() -> None:
    x = zeros(1, 2, 4, 8)
    with pytest.raises(umfa.InvalidArgument, match="out: memory shared with q"):
        umfa.attention(x, x.copy(), x.copy(), out=x)
    with pytest.raises(umfa.InvalidArgument, match="out: memory shared with v"):
        umfa.attention(x.copy(), x.copy(), x, out=x)


def test_quantized_attention_wants_something_quantized() -> None:
    x = zeros(4, 8)
    with pytest.raises(umfa.InvalidArgument, match="no operand is quantized"):
        umfa.quantized_attention(x, x, x)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (([0], [0, 7]), umfa.InvalidDimensions, "1 entries"),
        (([0, 5], [0, 3, 7]), umfa.InvalidDimensions, "3 entries, expected 2"),
        (([0, 1 << 40], [0, 7]), umfa.InvalidDimensions, "does not fit int32"),
        (([1, 5], [0, 7]), umfa.MFAError, "expected"),
        (([0, 6], [0, 7]), umfa.MFAError, "expected"),
        (([0, 5, 3, 5], [0, 2, 4, 7]), umfa.MFAError, "expected"),
        ((np.zeros((2, 2), np.int32), [0, 7]), umfa.InvalidDimensions, "shape"),
        ((np.zeros(2, np.float32), [0, 7]), umfa.InvalidType, "dtype float32"),
        (("05", [0, 7]), umfa.InvalidType, "str"),
    ],
)
def test_bad_sequence_lengths(lengths: Any, error: Any, message: str) -> None:
    q, k = zeros(5, 2, 8), zeros(7, 2, 8)
    options: Any = {"layout": "BNHD", "cu_seqlens_q": lengths[0], "cu_seqlens_k": lengths[1]}
    with pytest.raises(error, match=message):
        umfa.attention(q, k, k, **options)


def test_bad_quantization(normal: Draw) -> None:
    x = normal(1, 2, 6, 16)
    with pytest.raises(umfa.InvalidArgument, match="not finite"):
        umfa.quantize(np.full((2, 4), np.inf, np.float32))
    with pytest.raises(umfa.InvalidType, match="x: dtype float64"):
        umfa.quantize(x.astype(float))  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(umfa.InvalidDimensions, match="15 columns, expected an even number"):
        umfa.quantize(x[..., :15], "int4")
    with pytest.raises(umfa.InvalidArgument, match="mean: given with smooth=False"):
        umfa.quantize(x, smooth=False, mean=zeros(1, 2, 16))
    with pytest.raises(umfa.InvalidArgument, match="zero_point: expected together with scale"):
        umfa.quantize(x, zero_point=3)
    with pytest.raises(umfa.InvalidArgument, match="zero_point= beside"):
        umfa.quantize(x, scale=0.1, symmetric=False)
    for scale in (float("nan"), float("inf"), 0.0):
        with pytest.raises(umfa.InvalidArgument):
            umfa.quantize(x, scale=scale)
    with pytest.raises(umfa.InvalidDimensions, match=r"scale: shape \(1, 2, 6, 2\)"):
        umfa.quantize(x, "int8", "row", scale=np.ones((1, 2, 6, 2), np.float32))
    with pytest.raises(umfa.InvalidDimensions, match="mean: shape"):
        umfa.quantize(x, mean=zeros(2, 16))
    tensor = umfa.quantize(x)
    with pytest.raises(umfa.InvalidArgument, match="granularity: given together with out"):
        umfa.quantize(x, granularity="row", out=tensor)
    with pytest.raises(umfa.InvalidDimensions, match="out: shape"):
        umfa.quantize(x[:, :1], out=tensor)
    tensor.data.flags.writeable = False
    with pytest.raises(umfa.InvalidArgument, match=r"out\.data: a read-only array"):
        umfa.quantize(x, out=tensor)


def test_bad_parts() -> None:
    data = zeros(2, 8, 16, dtype=np.int8)
    rows = np.ones((2, 8, 1), np.float32)
    build = umfa.QuantizedTensor
    with pytest.raises(umfa.InvalidDimensions, match=r"scale: shape \(2, 8, 1\), expected \(\)"):
        build(data, rows)
    with pytest.raises(umfa.InvalidDimensions, match=r"scale: shape \(2, 7, 1\)"):
        build(data, rows[:, :7], granularity="row")
    with pytest.raises(umfa.InvalidDimensions, match=r"zero_point: shape \(2, 8\)"):
        build(data, rows, zeros(2, 8, dtype=np.int8), granularity="row")
    with pytest.raises(umfa.InvalidType, match="scale: dtype float64"):
        build(data, rows.astype(float), granularity="row")
    with pytest.raises(umfa.InvalidType, match="zero_point: dtype int64"):
        build(data, rows, zeros(2, 8, 1, dtype=np.int64), granularity="row")
    with pytest.raises(umfa.InvalidType, match="data: dtype uint8, expected int8"):
        build(data.view(np.uint8), 1.0)
    with pytest.raises(umfa.InvalidType, match="data: dtype int8, expected uint8"):
        build(data, 1.0, precision="int4")
    with pytest.raises(umfa.InvalidDimensions, match=r"shape: \(2, 8, 15\), expected \(2, 8, 16\)"):
        build(data, 1.0, shape=(2, 8, 15))
    with pytest.raises(umfa.InvalidDimensions, match="mean: shape"):
        build(data, 1.0, mean=zeros(2, 8))
    with pytest.raises(umfa.InvalidArgument, match="group: 32 with granularity"):
        build(data, 1.0, group=32)
    for scale in (float("nan"), float("inf"), 0.0):
        with pytest.raises(umfa.InvalidArgument, match="scale: "):
            build(data, scale)
        whole = build(data, np.array([scale], np.float32))
        with pytest.raises(umfa.InvalidArgument, match=r"scale is .*expected a finite number"):
            umfa.attention(zeros(2, 3, 16), whole, zeros(2, 8, 16))


def test_zero_points_share_the_strides_of_scales(normal: Draw) -> None:
    made = umfa.quantize(normal(2, 8, 16), "int8", "row", symmetric=False)
    apart = np.repeat(made.zero_point, 2, 1)[:, ::2]
    other = umfa.QuantizedTensor(made.data, made.scale, apart, granularity="row")
    with pytest.raises(umfa.InvalidDimensions, match="strides other than those of scale"):
        other.dequantize()


def test_tensors_of_other_devices(torch: Any) -> None:
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(umfa.Unsupported, match="q: a tensor on device meta, expected cpu"):
        umfa.attention(x.to("meta"), x, x)
    with pytest.raises(umfa.InvalidArgument, match="k: a torch tensor without plain memory"):
        umfa.attention(x, x.to_sparse(), x)
    with pytest.raises(umfa.InvalidType, match=r"v: dtype float64, expected .*x.float\(\)"):
        umfa.attention(x, x, x.double())


def test_gradients_are_not_lost_silently(torch: Any) -> None:
    x = torch.zeros(1, 1, 4, 8, requires_grad=True)
    with pytest.raises(umfa.InvalidArgument, match="q: a tensor that requires gradients"):
        umfa.attention(x, x, x)
    with torch.no_grad():
        umfa.attention(x, x, x)
    umfa.attention(x.detach(), x.detach(), x.detach())


def test_pending_negation_is_not_lost_silently(torch: Any) -> None:
    x = torch.zeros(4, 8, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    with pytest.raises(umfa.InvalidArgument, match="negation is pending"):
        umfa.attention(x, x, x)


def test_foreign_devices_through_dlpack() -> None:
    class Device:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("not reached")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    with pytest.raises(umfa.Unsupported, match="device type 2, expected memory of the CPU"):
        umfa.attention(Device(), zeros(2, 4), zeros(2, 4))


def test_exporters_that_fail_keep_their_exception() -> None:
    class Failing:
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("borrowed")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(BufferError, match="borrowed"):
        umfa.attention(Failing(), zeros(2, 4), zeros(2, 4))


def test_huge_outputs_are_refused_before_they_are_had() -> None:
    q = strided((1, 1, 1 << 45, 8), (0, 0, 0, 4))
    k = zeros(1, 1, 4, 8)
    with pytest.raises(MemoryError):
        umfa.attention(q, k, k)
    with pytest.raises(umfa.BufferAllocation):
        umfa.attention(q, k, k, precision={"q": "int8"})
