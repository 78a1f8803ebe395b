"""The conformance vectors as calls for the launch recorder, and what they expect.

The grammar is at the top of tests/conformance/vectors/manifest.txt; the reader is the Python
package's.
"""

from __future__ import annotations

import base64
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# Functions of the contract that the general calls reach; the fixed signatures go through the same
# plans.
CALLS = {"attention", "quantize", "dequantize"}


def reader(repository: Path) -> ModuleType:
    """python/umfa/tests/vectors.py of a repository, or of a folder with a copy of it."""
    file = repository / "python/umfa/tests/vectors.py"
    spec = importlib.util.spec_from_file_location("umfa_vectors", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def is_backward(role: str) -> bool:
    return role.startswith("grad_") or role == "d_values"


def operations(case: Any) -> list[str]:
    """What a case asks for, one call each."""
    if case.status != 0 or case.call not in CALLS:
        return []
    if case.call != "attention":
        return [case.call]
    asked = {"forward": "output", "backward": "grad_output"}
    return [operation for operation, role in asked.items() if role in case.tensors]


def calls(repository: Path, family: int = 9) -> list[dict[str, Any]]:
    """Every call of every vector that is not to be refused, in the recorder's form."""
    result = []
    for case in reader(repository).cases().values():
        for operation in operations(case):
            result.append(_call(case, operation, family))
    return result


def _id(number: int) -> int | None:
    return None if number < 0 else number


def _call(case: Any, operation: str, family: int) -> dict[str, Any]:
    count = max([*case.rooms, *case.data]) + 1
    buffers: list[dict[str, Any]] = []
    for number in range(count):
        if number in case.rooms:
            buffers.append({"size": max(case.rooms[number], 1)})
        else:
            offset, size = case.data.get(number, (0, 0))
            content = case.content[offset : offset + size] or b"\0"
            buffers.append({"size": len(content), "contents": base64.b64encode(content).decode()})
    tensors = {}
    for role, tensor in case.tensors.items():
        quantization = case.quantizations.get(role)
        tensors[role] = {
            "buffer": tensor.buffer,
            "byteOffset": tensor.offset,
            "precision": tensor.precision,
            "shape": tensor.shape,
            "strides": tensor.strides,
            **({"quantization": _quantization(quantization)} if quantization else {}),
        }
    flags, scale, softcap, alignment, _, left, right = case.options
    count, q, q_offset, k, k_offset = case.varlen or (0, -1, 0, -1, 0)
    return {
        "name": f"{case.name}/{operation}",
        "operation": operation,
        "family": family,
        "flags": case.flags,
        "buffers": buffers,
        "tensors": tensors,
        "options": {
            "flags": int(flags),
            "softmaxScale": scale,
            "softcap": softcap,
            "alignment": int(alignment),
            "windowLeft": int(left),
            "windowRight": int(right),
            "sequenceCount": count,
            "cuSeqlensQ": _id(q),
            "cuSeqlensQOffset": q_offset,
            "cuSeqlensK": _id(k),
            "cuSeqlensKOffset": k_offset,
        },
    }


def _quantization(q: Any) -> dict[str, Any]:
    return {
        "granularity": q.granularity,
        "blockRows": q.block_rows,
        "groupSize": q.group_size,
        "scale": q.scale,
        "zeroPoint": q.zero_point,
        "scaleBuffer": _id(q.scale_buffer),
        "scaleOffset": q.scale_offset,
        "scaleStrides": q.scale_strides,
        "scalePrecision": q.scale_precision,
        "rotated": q.rotated,
        "zeroPointBuffer": _id(q.zero_point_buffer),
        "zeroPointOffset": q.zero_point_offset,
        "zeroPointBytes": q.zero_point_bytes,
        "meanBuffer": _id(q.mean_buffer),
        "meanOffset": q.mean_offset,
    }
