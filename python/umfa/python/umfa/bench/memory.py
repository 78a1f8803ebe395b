"""How much memory a call takes: a fresh process for each figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umfa.bench.cases import Case
from umfa.bench.engines import OURS
from umfa.bench.process import PeerFailed, Worker
from umfa.bench.runner import FORMATS, Settings


@dataclass(frozen=True)
class Memory:
    """Bytes by which the peak of a process grew in its first call on a case."""

    case: Case
    engine: str
    storage: str
    masked: bool
    growth: int | None = None
    output: int | None = None
    workspace: int | None = None
    refused: str | None = None

    @staticmethod
    def from_json(data: dict[str, Any]) -> Memory:
        """The reverse of `dataclasses.asdict`."""
        return Memory(**{**data, "case": Case(**data["case"])})


def measure(
    case: Case,
    peers: Sequence[tuple[str, Path | None]],
    settings: Settings,
    say: Callable[[str], None],
) -> list[Memory]:
    """Plain and masked (BOOL, rows by keys), in the formats that a memory preset has."""
    found = []
    for engine, where in ((OURS, None), *peers):
        for storage in FORMATS["memory"] if engine == OURS else ("fp32",):
            for masked in (False, True):
                say(f"memory of {engine} {storage}{', masked' if masked else ''}")
                request = {
                    "do": "memory",
                    "case": case.to_json(),
                    "format": storage,
                    "seed": settings.seed,
                    "masked": masked,
                }
                try:
                    with Worker(engine, settings.threads, where) as worker:
                        answer = worker.ask(request, settings.timeout)
                except (OSError, PeerFailed) as error:
                    answer = {"refused": str(error)}
                found.append(Memory(case, engine, storage, masked, **answer))
    return found
