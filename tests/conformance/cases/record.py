"""One case as the manifest of its family has it, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from reference.errorrule import Bound

from .views import Shape, View, fill

NO_BUFFER = -1
GRAMMAR = """\
# Conformance vectors of mfa.h. Made by tests/conformance/generate.py; do not edit.
#
# One item a line, fields separated by single spaces. Numbers are decimal; floating-point ones may
# be nan, inf or -inf. Enumerators and flags have the values of mfa.h. Strides count elements,
# offsets and sizes count bytes. A buffer ID of -1 is none.
#
# mfa-vectors VERSION
#     The first line of this file that is not a comment.
# family NAME
#     The cases of NAME.txt, whose arrays are in NAME.bin, come next. All other items are in such files.
# case NAME CALL STATUS FILE BASE SIZE
#     Begins a case. Its bytes are the SIZE bytes of FILE from BASE; every OFFSET below is one into
#     them. STATUS is what the (last) call must return; if not 0, no buffer may have changed. CALL:
#       attention   mfa_forward if `output` is there, then mfa_backward if `grad_output` is there
#       quantize    mfa_quantize from `source` to `destination`
#       dequantize  mfa_dequantize from `source` to `destination`
#       plain       mfa_attention_forward
#       training    mfa_attention_forward_quantized, then, if `grad_output` is there,
#                   mfa_attention_backward_query_quantized and mfa_attention_backward_kv_quantized
#     In the last two, x is transposed where the last stride of x is not 1.
# data ID OFFSET SIZE
#     Buffer ID: SIZE bytes from OFFSET. An input, never written.
# room ID SIZE
#     Buffer ID: SIZE bytes of 0xFF before the call. Bytes outside the tensors in it stay 0xFF.
# tensor ROLE ID OFFSET PRECISION SHAPE[4] STRIDES[4]
#     ROLE is a field of mfa_forward_desc, mfa_backward_desc, mfa_attention_options or
#     mfa_quantize_desc; given_output and given_logsumexp are what backward gets as output and
#     logsumexp. A role that is not there is absent.
# quantization ROLE GRANULARITY BLOCK_ROWS GROUP_SIZE SCALE ZERO_POINT SCALE_ID SCALE_OFFSET
#              SCALE_PRECISION ROTATED ZERO_POINT_ID ZERO_POINT_OFFSET ZERO_POINT_BYTES
#              SCALE_STRIDES[4] MEAN_ID MEAN_OFFSET
#     Of that tensor; one line.
# options FLAGS SCALE SOFTCAP ALIGNMENT COMPUTE WINDOW_LEFT WINDOW_RIGHT
# varlen COUNT CU_Q_ID CU_Q_OFFSET CU_K_ID CU_K_OFFSET
# flags FLAGS
#     Of mfa_backward_desc or mfa_quantize_desc.
# expect ROLE OFFSET MAX RMS FACTOR NAIVE_MAX NAIVE_RMS NOISE_MAX NOISE_RMS
#     ROLE must hold, in the order of its shape, the FP32 numbers at OFFSET: NaN where NaN is
#     expected, the same infinity where one is, and elsewhere errors of at most MAX in any element,
#     and a root mean square of at most RMS over the finite ones of any [batch, head]. The rest
#     says where the two come from: reference/errorrule.py.
# same ID OFFSET
#     Buffer ID must hold exactly the bytes at OFFSET.
# error RMSE RELATIVE_RMSE MAX_ABS WORST_ROW_RMSE
#     What mfa_quantize must report, to a relative 1e-4.
# end
#     Ends the case.
"""


def number(x: float) -> str:
    """The shortest text that reads back as the same float32."""
    return "nan" if np.isnan(x) else f"{float(x):.9g}"


def _figure(x: float) -> str:
    return f"{x:.3e}"


@dataclass
class Tensor:
    buffer: int
    offset: int
    precision: int
    shape: Shape
    strides: Shape

    def line(self, role: str) -> str:
        numbers = (self.buffer, self.offset, self.precision, *self.shape, *self.strides)
        return " ".join(["tensor", role, *map(str, numbers)])


@dataclass
class Quantization:
    granularity: int = 0
    block_rows: int = 0
    group_size: int = 0
    scale: float = 0.0
    zero_point: int = 0
    scale_buffer: int = NO_BUFFER
    scale_offset: int = 0
    scale_precision: int = 0
    rotated: int = 0
    zero_point_buffer: int = NO_BUFFER
    zero_point_offset: int = 0
    zero_point_bytes: int = 0
    scale_strides: Shape = (0, 0, 0, 0)
    mean_buffer: int = NO_BUFFER
    mean_offset: int = 0

    def line(self, role: str) -> str:
        before = (self.granularity, self.block_rows, self.group_size)
        after = (
            self.zero_point,
            self.scale_buffer,
            self.scale_offset,
            self.scale_precision,
            self.rotated,
        )
        zero = (self.zero_point_buffer, self.zero_point_offset, self.zero_point_bytes)
        rest = (*after, *zero, *self.scale_strides, self.mean_buffer, self.mean_offset)
        return " ".join(
            ["quantization", role, *map(str, before), number(self.scale), *map(str, rest)]
        )


@dataclass
class CallOptions:
    flags: int = 0
    scale: float = 0.0
    softcap: float = 0.0
    alignment: int = 0
    compute: int = 0
    window_left: int = 0
    window_right: int = 0

    def line(self) -> str:
        rest = (self.alignment, self.compute, self.window_left, self.window_right)
        return " ".join(
            ["options", str(self.flags), number(self.scale), number(self.softcap), *map(str, rest)]
        )


@dataclass
class Record:
    """A case being built: structured, so that faults can be put into a valid one."""

    name: str
    call: str = "attention"
    status: int = 0
    blob: bytearray = field(default_factory=bytearray)
    buffers: list[tuple[int | None, int]] = field(default_factory=list)
    """(offset in the case's bytes or None for room, size)"""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    quantizations: dict[str, Quantization] = field(default_factory=dict)
    options: CallOptions | None = None
    varlen: tuple[int, int, int, int, int] | None = None
    flags: int = 0
    expectations: list[str] = field(default_factory=list)

    def append(self, data: bytes) -> int:
        """The offset of `data` in the case's bytes, which it joins unless it is there already."""
        found = self.blob.find(data) if data else 0
        while found > 0 and found % 8:
            found = self.blob.find(data, found + 1)
        if found < 0:
            found = len(self.blob) + -len(self.blob) % 8
            self.blob.extend(bytes(found - len(self.blob)))
            self.blob.extend(data)
        return found

    def data(self, content: bytes) -> int:
        self.buffers.append((self.append(content), len(content)))
        return len(self.buffers) - 1

    def room(self, size: int) -> int:
        self.buffers.append((None, size))
        return len(self.buffers) - 1

    def resize(self, role: str, change: int) -> None:
        """Make the buffer of a tensor longer or shorter."""
        buffer = self.tensors[role].buffer
        offset, size = self.buffers[buffer]
        self.buffers[buffer] = (offset, size + change)

    def input(self, role: str, values: NDArray, precision: int, view: View) -> None:
        buffer = self.data(fill(view, values, precision))
        self.tensors[role] = Tensor(
            buffer, view.byte_offset(precision), precision, view.shape, view.strides
        )

    def output(self, role: str, precision: int, view: View) -> None:
        buffer = self.room(view.bytes(precision))
        self.tensors[role] = Tensor(
            buffer, view.byte_offset(precision), precision, view.shape, view.strides
        )

    def expect(self, role: str, values: NDArray, bound: Bound) -> None:
        with np.errstate(over="ignore"):
            offset = self.append(values.astype("<f4").tobytes())
        figures = (bound.naive.max, bound.naive.rms, bound.noise.max, bound.noise.rms)
        words = [
            "expect",
            role,
            str(offset),
            _figure(bound.max),
            _figure(bound.rms),
            f"{bound.factor:g}",
        ]
        words += map(_figure, figures)
        self.expectations.append(" ".join(words))

    def expect_bytes(self, buffer: int, content: bytes) -> None:
        self.expectations.append(f"same {buffer} {self.append(content)}")

    def lines(self, file: str, base: int) -> list[str]:
        result = [f"case {self.name} {self.call} {self.status} {file} {base} {len(self.blob)}"]
        for number_, (offset, size) in enumerate(self.buffers):
            result.append(
                f"room {number_} {size}" if offset is None else f"data {number_} {offset} {size}"
            )
        result += [tensor.line(role) for role, tensor in self.tensors.items()]
        result += [quantization.line(role) for role, quantization in self.quantizations.items()]
        if self.options is not None:
            result.append(self.options.line())
        if self.varlen is not None:
            result.append("varlen " + " ".join(map(str, self.varlen)))
        if self.flags:
            result.append(f"flags {self.flags}")
        return [*result, *(self.expectations if self.status == 0 else []), "end"]
