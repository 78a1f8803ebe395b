"""What the machine can do at most, as `cargo xtask ceilings -- --json` measures it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umfa.bench.cases import TRAINING, Case
from umfa.bench.modes import Mode, Stored

# Bytes of an element of K or V in a cache.
BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4_kv": 0.5}


@dataclass(frozen=True)
class Ceilings:
    """Rates with the number of threads of the run, in operations or bytes per second."""

    isa: str
    fma: float
    dot4: float
    dot2: float
    memory: float
    softmax_f32: float
    softmax_i16: float
    softmax_u8: float
    # Products of bf16, where there is a unit for them and it was measured.
    bf16: float | None = None

    def least(self, case: Case, mode: Mode) -> float:
        """The least time for a case in a format: reading K and V once, or products if longer.

        Floats of Q multiply integers in FP32, and weights multiply V as 16-bit integers where its
        rows have one scale each; in decoding all products are those of FP32.
        """
        if "q" in mode.quantized:
            return self.seconds(case, "int8")
        if case.decode:
            width = sum(Stored(mode, x).bytes_an_element(case.columns) for x in "kv") / 2
            return max(self._in_fp32(case), case.kv_elements * width / self.memory)
        values = mode.keywords("v")
        within_row = values["granularity"] == "channel" or "group" in values
        if mode.precision is None or within_row:
            return self._in_fp32(case)
        qk, pv = 2.0 * case.columns, 2.0 * case.value_columns
        return case.scores * (qk / self.fma + pv / self.dot2 + 1 / self.softmax_i16)

    def _in_fp32(self, case: Case) -> float:
        """The products and the softmax of a forward case in FP32."""
        products = 2.0 * (case.columns + case.value_columns) / self.fma
        return case.scores * (products + 1 / self.softmax_f32)

    def seconds(self, case: Case, storage: str) -> float:
        """The least time for a case: its products, its softmax and no overlap of the two.

        Where few rows read many keys, it is the time to read K and V if that is longer.
        """
        qk, pv = 2.0 * case.columns, 2.0 * case.value_columns
        if case.kind == TRAINING:
            # Forward, and five products backward, of FP32.
            backward = (3 * qk + 2 * pv) / self.fma + 1 / self.softmax_f32
            compute = self._in_fp32(case) + case.scores * backward
        elif storage == "int8":
            compute = case.scores * (qk / self.dot4 + pv / self.dot2 + 1 / self.softmax_i16)
        elif storage == "int8_fast":
            compute = case.scores * ((qk + pv) / self.dot4 + 1 / self.softmax_u8)
        else:
            compute = self._in_fp32(case)
        if case.decode:
            width = BYTES.get(storage, BYTES["int8"])
            return max(compute, case.kv_elements * width / self.memory)
        return compute


def parse(data: dict[str, Any], threads: int) -> Ceilings:
    """Reads the bench's JSON; a ValueError says what it lacks."""
    rates: dict[str, list[float]] = {}
    for entry in data["ceilings"]:
        name, unit = entry["name"], entry["unit"]
        # The names of arithmetic are instructions, which differ by instruction set: order counts.
        key = unit if unit in ("GFLOP/s", "GOP/s") else name.split(" (")[0]
        by_threads = {int(count): rate for count, rate in entry["by_threads"].items()}
        fitting = max((n for n in by_threads if n <= threads), default=min(by_threads))
        rates.setdefault(key, []).append(1e9 * by_threads[fitting])
    try:
        return Ceilings(
            isa=data["isa"],
            fma=rates["GFLOP/s"][0],
            dot4=rates["GOP/s"][0],
            dot2=rates["GOP/s"][1],
            memory=rates["read from memory"][0],
            softmax_f32=rates["softmax step to f32"][0],
            softmax_i16=rates["softmax step to i16"][0],
            softmax_u8=rates["softmax step to u8"][0],
            bf16=dict(enumerate(rates["GFLOP/s"])).get(1),
        )
    except (KeyError, IndexError) as error:
        raise ValueError(f"the ceilings of {data['isa']} lack {error}") from None


def read(path: Path, threads: int) -> tuple[Ceilings, dict[str, Any]]:
    """The ceilings of a file, for this many threads, and what the file said."""
    data = json.loads(path.read_text())
    return parse(data, threads), data
