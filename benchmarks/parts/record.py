"""Appends one JSON line a run to benchmarks/results.jsonl: what was measured, by which command and commit, where."""

import datetime
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results.jsonl"


def record(benchmark: str, parameters: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Append a run. parameters: what was asked for. rows: the lines of the table that was printed."""
    entry = {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": command(sys.argv),
        "machine": machine(),
        "parameters": parameters,
        "rows": rows,
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def command(arguments: list[str]) -> str:
    """The command line, the script by its path in the repository and paths of this machine by their names."""
    root = RESULTS.parents[1]
    parts = [Path(part) for part in arguments]
    shown = [path.name if path.is_absolute() else part for path, part in zip(parts, arguments, strict=True)]
    script = parts[0].resolve()
    shown[0] = str(script.relative_to(root)) if script.is_relative_to(root) else script.name
    return shlex.join(["python", *shown])


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and versions; nothing that names the host."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "torch": metadata.version("torch"),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """Commit of the working tree, with ``-dirty`` where tracked files differ from it; None outside a repository.

    A copy of the tree on a machine without the repository takes it from the variable GIT_COMMIT.
    """
    if (given := os.environ.get("GIT_COMMIT")) or shutil.which("git") is None:
        return given
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None
