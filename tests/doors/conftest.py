"""Makes the reference importable, and says in the end what went through which door."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

# The same calls on every run; UMFA_EXPLORE=1 draws others.
EXPLORE = bool(os.environ.get("UMFA_EXPLORE"))
settings.register_profile(
    "doors",
    derandomize=not EXPLORE,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("doors")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from check import COUNTS, SAID, summary

    if COUNTS or SAID:
        terminalreporter.write_sep("-", "doors")
        for line in summary():
            terminalreporter.write_line(line)
