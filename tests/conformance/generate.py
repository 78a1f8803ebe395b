"""Writes the conformance vectors: vectors/manifest.txt, and for each family of cases NAME.txt and NAME.bin.

python tests/conformance/generate.py           write them
python tests/conformance/generate.py --check   compare with what is there, byte for byte
python tests/conformance/generate.py --list    the size of every file
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cases import attention, faults, list_forward, list_options, list_roundings, roundings
from cases.record import GRAMMAR, Record

VECTORS = Path(__file__).parent / "vectors"
VERSION = 2
PREAMBLE = "# Cases of {0}.bin; manifest.txt has the grammar. Made by tests/conformance/generate.py; do not edit."


def groups() -> Iterator[tuple[str, list[Record]]]:
    """(name of the file, its cases)"""
    for name, cases in {**list_forward.groups(), **list_options.groups()}.items():
        yield name, [attention.build(case) for case in cases]
    yield "quantize", [roundings.build_quantize(case) for case in list_roundings.quantize_cases()]
    yield (
        "dequantize",
        [roundings.build_dequantize(case, to) for case, to in list_roundings.dequantize_cases()],
    )
    yield (
        "faults",
        [
            *(faults.build_fault(fault) for fault in faults.ATTENTION_FAULTS),
            *(faults.build_rounding_fault(fault) for fault in faults.ROUNDING_FAULTS),
        ],
    )


def files() -> dict[str, bytes]:
    """Every file of the vectors folder by name."""
    index, names, result = [GRAMMAR.rstrip(), f"mfa-vectors {VERSION}"], set(), {}
    for group, records in groups():
        content, lines = bytearray(), [PREAMBLE.format(group)]
        for record in records:
            if record.name in names:
                raise ValueError(f"two cases are called {record.name}")
            names.add(record.name)
            content.extend(bytes(-len(content) % 8))
            lines += record.lines(f"{group}.bin", len(content))
            content.extend(record.blob)
        index.append(f"family {group}")
        result[f"{group}.bin"] = bytes(content)
        result[f"{group}.txt"] = text(lines)
    result["manifest.txt"] = text(index)
    return result


def text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def cases_in(expected: dict[str, bytes]) -> int:
    return sum(
        content.count(b"\ncase ") for name, content in expected.items() if name.endswith(".txt")
    )


def differences(expected: dict[str, bytes]) -> list[str]:
    found = {path.name: path.read_bytes() for path in VECTORS.iterdir()} if VECTORS.is_dir() else {}
    missing = [f"{name}: missing" for name in expected if name not in found]
    surplus = [f"{name}: not made by the generator" for name in found if name not in expected]
    changed = [
        f"{name}: differs" for name in expected if name in found and found[name] != expected[name]
    ]
    return [*missing, *surplus, *changed]


def write(expected: dict[str, bytes]) -> None:
    VECTORS.mkdir(exist_ok=True)
    for path in VECTORS.iterdir():
        if path.name not in expected:
            path.unlink()
    for name, content in expected.items():
        (VECTORS / name).write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    expected = files()
    if arguments.check:
        problems = differences(expected)
        print("\n".join(problems) or f"{len(expected)} files are as generated")
        return 1 if problems else 0
    if arguments.list:
        for name, content in expected.items():
            print(f"{len(content):8} {name}")
        print(f"{sum(map(len, expected.values())):8} in all, {cases_in(expected)} cases")
        return 0
    write(expected)
    print(f"{cases_in(expected)} cases, {sum(map(len, expected.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
