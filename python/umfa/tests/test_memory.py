"""Peak memory: the output and a few tiles, never the matrix of scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np, umfa

def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) * 1024

rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 4, {rows}, 64), np.float32) for _ in range(3))
mask = rng.standard_normal({rows}, np.float32)
options = {options}
umfa.attention(q[:, :, :64], k, v, **options)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
before = status("VmRSS")
out = umfa.attention(q, k, v, **options)
print(status("VmHWM") - before - out.nbytes)
"""

OPTIONS = {
    "plain": "{}",
    "masked": '{"attn_mask": mask, "causal": True, "alignment": "bottom_right"}',
    "quantized": '{"precision": {"k": "int8", "v": "int4"}, "granularity": "row", "causal": True, '
    '"alignment": "top_left"}',
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", OPTIONS)
def test_peak_memory_is_the_output_and_tiles(name: str) -> None:
    rows = 16384
    program = PROGRAM.format(rows=rows, options=OPTIONS[name])
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    quantized = 4 * rows * 64 * 3 // 2 + 2 * 4 * rows * 4 if name == "quantized" else 0
    beside = int(result.stdout)
    assert beside <= quantized + (8 << 20), beside


PLANNED = """
import numpy as np, resource, umfa

shape = (64, 32, 4096, 64)  # 2 GiB, which no one touches
q = np.broadcast_to(np.zeros((1, 1, 4096, 64), np.float32), shape)
k = np.broadcast_to(np.zeros((1, 1, 16, 64), np.float32), (64, 32, 16, 64))
umfa.explain(q[:1], k[:1], k[:1], **{options})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
umfa.explain(q, k, k, **{options})
umfa.workspace_size(q, k, k, **{options})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's units")
@pytest.mark.parametrize(
    "options",
    ["{}", '{"return_logsumexp": True}', '{"backward": True}', '{"precision": {"q": "int8"}}'],
)
def test_plans_take_no_memory(options: str) -> None:
    program = PLANNED.format(options=options)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert int(result.stdout) <= 32 << 20, int(result.stdout)
