"""The cases of the conformance vectors, whose grammar is at the top of their manifest.txt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Array = npt.NDArray[Any]

FOLDER = Path(__file__).parents[3] / "tests" / "conformance" / "vectors"
FP32, FP16, BF16, INT4, INT8, BOOL = 0, 1, 2, 4, 8, 16
NONE = -1


def dtype(precision: int) -> np.dtype[Any]:
    """The element type; that of INT4 holds two of them."""
    if precision == BF16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    names = {FP32: "<f4", FP16: "<f2", INT4: "u1", INT8: "i1", BOOL: "?"}
    return np.dtype(names[precision])


def strided(
    memory: Array, offset: int, kind: str | np.dtype[Any], shape: Any, strides: Any
) -> Array:
    """A view of bytes; strides count elements."""
    item = np.dtype(kind).itemsize
    count = (memory.nbytes - offset) // item if memory.nbytes > offset else 0
    flat = memory[offset : offset + count * item].view(kind)
    if 0 in shape:
        return np.zeros(tuple(shape), kind)
    return as_strided(flat, tuple(shape), tuple(item * stride for stride in strides))


@dataclass
class Tensor:
    buffer: int
    offset: int
    precision: int
    shape: list[int]
    strides: list[int]

    def view(self, memory: Array) -> Array:
        shape, strides = list(self.shape), list(self.strides)
        if self.precision == INT4:
            shape[3] //= 2
            strides[:3] = [stride // 2 for stride in strides[:3]]
        return strided(memory, self.offset, dtype(self.precision), shape, strides)


@dataclass
class Quantization:
    granularity: int
    block_rows: int
    group_size: int
    scale: float
    zero_point: int
    scale_buffer: int
    scale_offset: int
    scale_precision: int
    rotated: int
    zero_point_buffer: int
    zero_point_offset: int
    zero_point_bytes: int
    scale_strides: list[int]
    mean_buffer: int
    mean_offset: int

    @staticmethod
    def read(words: list[str]) -> Quantization:
        """From the fields of a line."""
        n = [0 if i == 3 else int(word) for i, word in enumerate(words)]
        return Quantization(
            granularity=n[0],
            block_rows=n[1],
            group_size=n[2],
            scale=float(words[3]),
            zero_point=n[4],
            scale_buffer=n[5],
            scale_offset=n[6],
            scale_precision=n[7],
            rotated=n[8],
            zero_point_buffer=n[9],
            zero_point_offset=n[10],
            zero_point_bytes=n[11],
            scale_strides=n[12:16],
            mean_buffer=n[16],
            mean_offset=n[17],
        )

    def scale_shape(self, shape: list[int]) -> list[int]:
        batch, heads, rows, columns = shape
        if self.granularity == 0:
            return [1, 1, 1, 1]
        if self.granularity == 1:
            return [batch, heads, rows, -(-columns // (self.group_size or columns))]
        blocks = -(-rows // self.block_rows)
        return [batch, heads, blocks, 1 if self.granularity == 2 else columns]

    def _strides(self, shape: list[int]) -> list[int]:
        if any(self.scale_strides):
            return self.scale_strides
        return [int(np.prod(shape[axis + 1 :])) for axis in range(4)]

    def scales(self, memory: Array, shape: list[int]) -> Array:
        sizes, kind = self.scale_shape(shape), dtype(self.scale_precision)
        return strided(memory, self.scale_offset, kind, sizes, self._strides(sizes))

    def zero_points(self, memory: Array, shape: list[int]) -> Array:
        sizes, kind = self.scale_shape(shape), np.dtype(f"<i{self.zero_point_bytes}")
        return strided(memory, self.zero_point_offset, kind, sizes, self._strides(sizes))

    def means(self, memory: Array, shape: list[int]) -> Array:
        batch, heads, _, columns = shape
        sizes = [batch, heads, columns]
        return strided(memory, self.mean_offset, "<f4", sizes, [heads * columns, columns, 1])


@dataclass
class Values:
    """What a tensor must hold, and the largest errors of an element and of a head."""

    offset: int
    max: float
    rms: float


@dataclass
class Case:
    name: str
    call: str
    status: int
    content: bytes
    rooms: dict[int, int] = field(default_factory=dict)
    """Sizes of the buffers that are written."""
    data: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Offset and size of those that are read."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    quantizations: dict[str, Quantization] = field(default_factory=dict)
    options: list[float] = field(default_factory=lambda: [0.0] * 7)
    varlen: list[int] = field(default_factory=list)
    flags: int = 0
    values: dict[str, Values] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    report: list[float] = field(default_factory=list)

    def memory(self) -> dict[int, Array]:
        """Fresh bytes for every buffer."""
        result = {number: np.full(size, 0xFF, np.uint8) for number, size in self.rooms.items()}
        for number, (offset, size) in self.data.items():
            result[number] = np.frombuffer(self.content[offset : offset + size], np.uint8).copy()
        return result

    def expected(self, buffer: int) -> Array:
        """The bytes that a buffer must hold."""
        start = self.same[buffer]
        return np.frombuffer(self.content[start : start + self.rooms[buffer]], np.uint8)

    def expected_values(self, role: str) -> Array:
        shape = self.tensors[role].shape
        count, offset = int(np.prod(shape)), self.values[role].offset
        return np.frombuffer(self.content, "<f4", count, offset).reshape(shape)

    def item(self, words: list[str]) -> None:
        kind, *rest = words
        if kind == "data":
            number, offset, size = map(int, rest)
            self.data[number] = (offset, size)
        elif kind == "room":
            self.rooms[int(rest[0])] = int(rest[1])
        elif kind == "tensor":
            buffer, offset, precision, *sizes = map(int, rest[1:])
            self.tensors[rest[0]] = Tensor(buffer, offset, precision, sizes[:4], sizes[4:])
        elif kind == "quantization":
            self.quantizations[rest[0]] = Quantization.read(rest[1:])
        elif kind == "options":
            self.options = [float(word) for word in rest]
        elif kind == "varlen":
            self.varlen = [int(word) for word in rest]
        elif kind == "flags":
            self.flags = int(rest[0])
        elif kind == "expect":
            self.values[rest[0]] = Values(int(rest[1]), float(rest[2]), float(rest[3]))
        elif kind == "same":
            self.same[int(rest[0])] = int(rest[1])
        elif kind == "error":
            self.report = [float(word) for word in rest]
        else:
            raise ValueError(f"unknown item: {' '.join(words)}")


def _lines(name: str) -> Iterator[list[str]]:
    for line in (FOLDER / name).read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            yield line.split()


def _read() -> Iterator[Case]:
    for item, word in _lines("manifest.txt"):
        if item == "mfa-vectors":
            assert word == "2", f"the manifest has version {word}, expected 2"
        else:
            assert item == "family", item
            yield from _read_family(word)


def _read_family(name: str) -> Iterator[Case]:
    files: dict[str, bytes] = {}
    case = None
    for words in _lines(f"{name}.txt"):
        if words[0] == "case":
            name, call, status, file, base, size = words[1:]
            if file not in files:
                files[file] = (FOLDER / file).read_bytes()
            content = files[file][int(base) : int(base) + int(size)]
            case = Case(name, call, int(status), content)
        elif words[0] == "end":
            assert case is not None
            yield case
            case = None
        else:
            assert case is not None, words
            case.item(words)


@lru_cache(maxsize=1)
def cases() -> dict[str, Case]:
    """Every case by name."""
    return {case.name: case for case in _read()}
