"""`umfa info`."""

import json
import os
import platform
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import umfa


def collect() -> dict[str, Any]:
    """Versions, devices and what decides how they compute."""
    one = np.zeros((1, 1, 1, 1), np.float32)
    plan = dict(
        line.split(": ", 1) for line in umfa.explain(one, one, one).splitlines() if ": " in line
    )
    variables = ("MFA_DRIVER", "MFA_CPU_ISA", "MFA_NUM_THREADS")
    return {
        "umfa": umfa.__version__,
        "library": str(umfa.get_version()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "devices": [
            {
                "index": d.index,
                "name": d.name,
                "kind": d.kind,
                "vendor": d.vendor,
                "backend": d.backend,
                "driver": d.driver,
            }
            for d in umfa.devices()
        ],
        "isa": plan.get("isa"),
        "threads": umfa.get_num_threads(),
        "metal": umfa.is_metal_available(),
        "torch": find_spec("torch") is not None,
        "environment": {name: os.environ[name] for name in variables if name in os.environ},
    }


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, devices, instruction set, threads and drivers."""
    found = collect()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("umfa", f"{found['umfa']} (library {found['library']})")
    table.add_row("Python", f"{found['python']}, NumPy {found['numpy']}")
    table.add_row("platform", found["platform"])
    for device in found["devices"]:
        maker = f", {device['vendor']}" if device["vendor"] else ""
        described = f"{device['name']}, {device['kind']}{maker}, driver: {device['driver']}"
        table.add_row(f"device {device['index']}", described)
    table.add_row("ISA", found["isa"] or "decided by the device")
    table.add_row("threads", str(found["threads"]))
    table.add_row("Metal", "available" if found["metal"] else "not available")
    table.add_row("PyTorch", "installed" if found["torch"] else "not installed")
    for name, value in found["environment"].items():
        table.add_row(name, value)
    Console().print(table)
