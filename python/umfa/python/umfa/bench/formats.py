"""What each format costs, from the results of a case of the preset `formats`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umfa.bench.cases import APPEND, FORMATS_PRESET, Case
from umfa.bench.modes import COPY, FROM_FLOATS, READ, RULERS
from umfa.bench.runner import Result

DEFINITION = (
    "Over FP32, over FP16: time over that of the same work on operands stored so; to store FP32 "
    "is to copy it, and NumPy converts FP16. Over bytes: time over that of the bytes that are read "
    "and written, each once (operands, scales, zero points, means and results), at the rate of a "
    "plain pass by NumPy with as many threads in the same run: a read of K and V in FP32, or a "
    "copy of the FP32 tensor that is stored. Of copy: elements a second over those of that copy."
)


@dataclass(frozen=True)
class Cost:
    """A format's time, and what it is held against."""

    result: Result
    over_fp32: float | None
    over_fp16: float | None
    over_bytes: float | None
    # Elements a second over those of a plain copy, where a tensor is stored as a whole.
    of_copy: float | None
    # Seconds of the call that quantizes its operands itself, and these over FP32's time.
    from_floats: float | None
    from_floats_over_fp32: float | None


def seconds(results: Sequence[Result], storage: str) -> float | None:
    """The median of a format, or None."""
    return next((r.median for r in results if r.storage == storage), None)


def ratio(above: float | None, below: float | None) -> float | None:
    """None where either is missing."""
    return above / below if above is not None and below else None


def byte_rate(results: Sequence[Result]) -> float | None:
    """Bytes a second of the plain pass of these results."""
    for result in results:
        if result.storage in RULERS and result.median and result.bytes:
            return result.bytes / result.median
    return None


def costs(case: Case, results: Sequence[Result]) -> list[Cost]:
    """Of every format that was timed, in order."""
    fp32, fp16 = seconds(results, "fp32"), seconds(results, "fp16")
    copy = seconds(results, COPY) if case.stores and case.kind != APPEND else None
    rate = byte_rate(results)
    found = []
    for result in results:
        name, median = result.storage, result.median
        if name in RULERS or name.endswith(FROM_FLOATS) or median is None:
            continue
        least = result.bytes / rate if rate and result.bytes else None
        floats = seconds(results, name + FROM_FLOATS)
        found.append(
            Cost(
                result,
                ratio(median, fp32),
                ratio(median, fp16),
                ratio(median, least),
                ratio(copy, median),
                floats,
                ratio(floats, fp32),
            )
        )
    return found


def title(case: Case) -> str:
    """What is done, and the sizes."""
    if case.stores:
        what = "append a row" if case.kind == APPEND else case.kind
    else:
        what = "decode" if case.decode else "prefill"
    return f"{FORMATS_PRESET}, {what}: {case.label}"


def ruler(results: Sequence[Result]) -> str:
    """The rate of the plain pass, in words; "" where it was not measured."""
    rate = byte_rate(results)
    name = next((r.storage for r in results if r.storage in RULERS), READ)
    return "" if rate is None else f"plain {name} {rate / 1e9:.3g} GB/s"
