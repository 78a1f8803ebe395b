"""ONNX models of a single node, in the wire format of protocol buffers.

The fields are those of onnx.proto; a model of one node needs so few of them that the package onnx
is not worth asking for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Attribute = int | float | str

# TensorProto.DataType.
FLOAT, UINT8, INT8, INT32, FLOAT16 = 1, 2, 3, 6, 10
IR_VERSION = 10


@dataclass(frozen=True)
class Value:
    """An input or output. Without a name it is an optional one that is left out."""

    name: str = ""
    element: int = FLOAT
    shape: tuple[int, ...] = ()


def model(
    operator: str,
    domain: str,
    opset: int,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    attributes: Mapping[str, Attribute],
) -> bytes:
    """A serialized ModelProto whose graph is this node."""
    node = b"".join(_field(1, value.name) for value in inputs)
    node += b"".join(_field(2, value.name) for value in outputs)
    node += _field(4, operator)
    node += b"".join(_field(5, _attribute(*item)) for item in attributes.items())
    node += _field(7, domain)
    graph = _field(1, node) + _field(2, "attention")
    graph += b"".join(_field(11, _value(value)) for value in inputs if value.name)
    graph += b"".join(_field(12, _value(value)) for value in outputs if value.name)
    opsets = {"": 24, domain: opset}
    imports = (_field(1, name) + _field(2, version) for name, version in opsets.items())
    return _field(1, IR_VERSION) + _field(7, graph) + b"".join(_field(8, i) for i in imports)


def _value(value: Value) -> bytes:
    dimensions = b"".join(_field(1, _field(1, size)) for size in value.shape)
    tensor = _field(1, value.element) + _field(2, dimensions)
    return _field(1, value.name) + _field(2, _field(1, tensor))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    if isinstance(value, float):
        return _field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _field(20, 1)
    return _field(1, name) + _field(4, value) + _field(20, 3)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
