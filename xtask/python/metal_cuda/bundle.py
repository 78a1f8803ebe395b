"""The folder for a machine with a GPU: what it runs, with the calls and their launches.

`python -m metal_cuda.bundle calls FOLDER`, then the recorder on each, then `… finish FOLDER`.

FOLDER/calls/NAME.json     what the recorder reads (calls)
FOLDER/NAME                what it writes: launches and texts
FOLDER/python              this package
FOLDER/repository          the conformance vectors with their reader, at their places
FOLDER/run.sh              runs everything
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from . import large, large_list, rounding, tiny, vectors

REPOSITORY = Path(__file__).parents[3]
# Sizes of the calls for the sanitizers: several tiles of keys, and rows that end within one.
CHECKED = {"rows": 70, "keys": 300}
RUN = """#!/bin/sh
# run.sh numbers FOLDER   errors of all kernels, small and large, in three modes of arithmetic
# run.sh checks FOLDER    sanitizers, and each barrier removed in turn
# Begins nothing new after LIMIT seconds (numbers 390, checks 450); writes one JSON file to FOLDER.
set -eu
what=${1:?numbers or checks} out=${2:?a folder}
case $what in
  numbers) parts="large rounding vectors" limit=${LIMIT:-390} ;;
  checks) parts="sanitize barriers" limit=${LIMIT:-450} ;;
  *) echo "numbers or checks, not $what" >&2; exit 2 ;;
esac
cd "$(dirname "$0")"
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}" METAL_CUDA_COMMAND="run.sh $what"
end=$(($(date +%s) + limit)) failed=0
if [ $what = numbers ]; then
  # Thousands of programs, compiled while the GPU works.
  scratch=$(mktemp -d)
  nice -n 10 python3 -m metal_cuda.run . "$scratch/compiled.json" --parts compile \\
    --seconds $((limit - 50)) >"$scratch/log" 2>&1 &
fi
for part in $parts; do
  if [ $part = vectors ]; then
    wait || true
    cat "$scratch/log"
  fi
  left=$((end - $(date +%s)))
  python3 -m metal_cuda.run . "$out/metal-cuda-$what.json" --parts $part --seconds $left || failed=1
done
exit $failed
"""


def write_calls(folder: Path) -> list[str]:
    """The recorder's input, by name of the recording."""
    lists = {
        "vectors": vectors.calls(REPOSITORY),
        "large": large.recorder_calls(large_list.calls()),
        "rounding": rounding.recorder_calls(),
        "checked": large.recorder_calls(tiny.calls(**CHECKED)),
    }
    (folder / "calls").mkdir(parents=True, exist_ok=True)
    for name, calls in lists.items():
        (folder / "calls" / f"{name}.json").write_text(json.dumps(calls, allow_nan=False))
    return list(lists)


def finish(folder: Path) -> None:
    """All but the recordings."""
    shutil.rmtree(folder / "calls", ignore_errors=True)
    package = folder / "python" / "metal_cuda"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        Path(__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "tests")
    )
    for path in ("python/umfa/tests/vectors.py", "tests/conformance/vectors"):
        target = folder / "repository" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / path).is_dir():
            shutil.copytree(REPOSITORY / path, target, dirs_exist_ok=True)
        else:
            shutil.copy2(REPOSITORY / path, target)
    script = folder / "run.sh"
    script.write_text(RUN)
    script.chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(prog="metal_cuda.bundle", description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["calls", "finish"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "calls":
        print(*write_calls(arguments.folder), sep="\n")
    else:
        finish(arguments.folder)


if __name__ == "__main__":
    main()
