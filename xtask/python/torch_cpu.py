"""Make PyPI's PyTorch importable on a CPU-only Linux machine without CUDA's libraries.

The x86-64 wheel of torch is linked against CUDA libraries of several times its own size, which a
machine without an NVIDIA GPU never calls. This puts a stand-in beside torch for each of them: a
library of the same name that defines the symbols (and their versions) that torch's libraries ask
the dynamic linker for. Every function in it fails, with a number that CUDA has no meaning for.

The exception is libcudart, which torch really calls while it is loaded: install
nvidia-cuda-runtime. Needs cc, nm and readelf, and torch installed with --no-deps in the
environment of the Python that runs this.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# What `import torch` loads. The others are opened when there is a GPU.
LIBRARIES = ("c10", "c10_cuda", "torch_cpu", "torch_cuda", "torch_nvshmem", "torch_python")

# Where a symbol belongs whose version is not a library's name: its prefix, and the library's.
PREFIXES = (
    ("cuFile", "libcufile.so"),
    ("curand", "libcurand.so"),
    ("cusparseLt", "libcusparseLt.so"),
    ("nccl", "libnccl.so"),
    ("nvshmem", "libnvshmem_host.so"),
)


def run(*command: object) -> str:
    """Return what a command prints; raise if it fails."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def missing_libraries(folder: Path) -> set[str]:
    """Return the CUDA libraries that torch's are linked against and that are not installed."""
    needed: set[str] = set()
    for name in LIBRARIES:
        table = run("readelf", "--dynamic", folder / f"lib{name}.so")
        needed.update(re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl).*)\]", table))
    packages = folder.parent.parent
    return {name for name in needed if not any(packages.glob(f"nvidia/**/{name}"))}


def wanted_symbols(folder: Path, libraries: set[str]) -> dict[str, dict[str, str]]:
    """Return per library the symbols, with their versions, that torch's libraries ask it for."""
    wanted: dict[str, dict[str, str]] = {library: {} for library in libraries}
    for name in LIBRARIES:
        path = folder / f"lib{name}.so"
        for line in run("nm", "-D", "--undefined-only", "--with-symbol-versions", path).split("\n"):
            symbol, _, version = line.strip().rpartition(" ")[2].partition("@")
            library = version
            for prefix, start in PREFIXES:
                if symbol.startswith(prefix) and version not in libraries:
                    library = next((one for one in libraries if one.startswith(start)), "")
            if library in wanted:
                wanted[library][symbol] = version
    return wanted


def make_stand_in(path: Path, symbols: dict[str, str]) -> None:
    """Compile a library that defines these symbols with these versions."""
    versions: dict[str, list[str]] = defaultdict(list)
    for symbol, version in sorted(symbols.items()):
        versions[version].append(symbol)
    flags = [f"-Wl,-soname,{path.name}"]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "stand_in.c")
        source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in symbols))
        nodes = [f"{v} {{ global: {'; '.join(names)}; }};" for v, names in versions.items() if v]
        if nodes:
            script = Path(scratch, "stand_in.map")
            script.write_text("\n".join(nodes) + "\n")
            flags.append(f"-Wl,--version-script={script}")
        run("cc", "-w", "-shared", "-fPIC", *flags, "-o", path, source)


def main() -> int:
    """Make every stand-in that is needed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        print("torch is not installed", file=sys.stderr)
        return 1
    folder = Path(spec.origin).parent / "lib"
    if not (folder / "libtorch_cuda.so").exists():
        print("this torch is not linked against CUDA: nothing to do")
        return 0
    for library, symbols in sorted(wanted_symbols(folder, missing_libraries(folder)).items()):
        make_stand_in(folder / library, symbols)
        print(f"{library}: {len(symbols)} symbols")
    return 0


if __name__ == "__main__":
    sys.exit(main())
