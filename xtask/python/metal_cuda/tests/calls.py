"""Writes the calls that the tests run on a processor: `python -m metal_cuda.tests.calls FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .. import bundle, large, rounding, tiny, vectors

# Vectors, by parts of their names: together every kernel, storage and option, and few of a kind.
VECTORS = (
    "mix_fp32_fp16_bf16/",
    "mix_bf16_int8_int4/",
    "kv_int4_row32_asym/",
    "kv_int8_channel",
    "rotated",
    "n7x128/",
    "masked_keys_hold_nan",
    "mask_fp16",
    "varlen_window/",
    "softcap",
    "sinks",
    "quantize_int8_row32_rotated_asym_scale16",
    "quantize_int4_channel16_asym_smooth",
    "dequantize_int8_block6_rotated_smooth_asym",
)
# Of each part this many calls.
MOST = 2


def chosen() -> dict[str, list[dict]]:
    calls = vectors.calls(bundle.REPOSITORY)
    some = []
    for part in VECTORS:
        some += [call for call in calls if part in call["name"]][:MOST]
    return {
        "vectors": list({call["name"]: call for call in some}.values()),
        "large": large.recorder_calls([c for c in tiny.calls(20, 40) if c.name in LARGE]),
        "rounding": rounding.recorder_calls(tiny.roundings()[2:3]),
    }


LARGE = ("decode int4", "softcap, slopes, sinks")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, calls in chosen().items():
        (folder / f"{name}.json").write_text(json.dumps(calls, allow_nan=False))


if __name__ == "__main__":
    main()
