"""What LaunchRecorder writes: calls as launches of texts."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Launch:
    text: str
    """Name of the text."""
    entry: str
    grid: tuple[int, int, int]
    threads: int
    buffers: dict[int, tuple[int, int]]
    """By Metal's index: number of a buffer, and bytes from its start."""
    bytes: dict[int, bytes]
    """By Metal's index: what setBytes was given."""
    threadgroup_memory: int
    """Bytes of the memory whose length is set by the launch."""


@dataclass(frozen=True)
class Record:
    name: str
    sizes: list[int]
    contents: list[bytes | None]
    """What the driver wrote into buffers of its own; None: nothing, or a buffer of the call."""
    launches: list[Launch]
    refusal: str | None

    @property
    def call(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def operation(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Recording:
    folder: Path
    records: list[Record]

    def text(self, name: str) -> str:
        return (self.folder / "texts" / f"{name}.metal").read_text()

    def texts(self) -> list[str]:
        return sorted({launch.text for record in self.records for launch in record.launches})


def load(folder: Path) -> Recording:
    return Recording(
        folder, [_record(entry) for entry in json.loads((folder / "launches.json").read_text())]
    )


def _record(entry: dict[str, Any]) -> Record:
    def decoded(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text)

    launches = [
        Launch(
            text=launch["text"],
            entry=launch["entry"],
            grid=tuple(launch["grid"]),
            threads=launch["threads"],
            buffers={
                int(index): (number, offset)
                for index, (number, offset) in launch["buffers"].items()
            },
            bytes={int(index): base64.b64decode(text) for index, text in launch["bytes"].items()},
            threadgroup_memory=launch["threadgroupMemory"].get("0", 0),
        )
        for launch in entry["launches"]
    ]
    return Record(
        name=entry["name"],
        sizes=[buffer["size"] for buffer in entry["buffers"]],
        contents=[decoded(buffer.get("contents")) for buffer in entry["buffers"]],
        launches=launches,
        refusal=entry.get("refusal"),
    )
