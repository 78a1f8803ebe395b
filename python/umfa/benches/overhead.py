"""What a call costs beside the computation: microseconds of the smallest attention there is.

`python benches/overhead.py`: the fastest of several runs of many calls on 1x1x16x16 operands.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

import umfa

CALLS, RUNS = 5000, 9


def microseconds(call: Callable[[], Any]) -> float:
    """The time of one call."""
    call()
    return 1e6 * min(timeit.repeat(call, number=CALLS, repeat=RUNS)) / CALLS


def cases() -> dict[str, Callable[[], Any]]:
    """The calls to measure."""
    context = umfa.MFAContext(num_threads=1)
    x = np.ones((1, 1, 16, 16), np.float32)
    out = np.empty_like(x)
    int8 = umfa.quantize(x, "int8", "row")
    sdpa = umfa.MetalSDPA(context=context)
    forward = umfa.flash_attention_forward
    found: dict[str, Callable[[], Any]] = {
        "NumPy": lambda: forward(context, x, x, x),
        "NumPy, out=": lambda: forward(context, x, x, x, out=out),
        "NumPy, causal, scale": lambda: forward(context, x, x, x, causal=True, softmax_scale=0.1),
        "NumPy, logsumexp": lambda: forward(context, x, x, x, return_logsumexp=True),
        "INT8 keys and values": lambda: forward(context, x, int8, int8),
        "quantize": lambda: umfa.quantize(x, "int8", "row", context=context),
        "MetalSDPA, NumPy": lambda: sdpa(x, x, x),
    }
    try:
        import torch
    except ImportError:
        return found
    t = torch.ones(1, 1, 16, 16)
    found["torch"] = lambda: forward(context, t, t, t)
    found["MetalSDPA, torch"] = lambda: sdpa(t, t, t)
    theirs = torch.nn.functional.scaled_dot_product_attention
    found["torch's own scaled_dot_product_attention"] = lambda: theirs(t, t, t)
    return found


def main() -> None:
    """Prints a line for each call."""
    for name, call in cases().items():
        print(f"{microseconds(call):8.2f} us  {name}")


if __name__ == "__main__":
    main()
