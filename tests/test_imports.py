"""Imports point downwards only, and nothing below orchestrator drags an engine in (DESIGN)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("channels", "samplers", "models", "orchestrator", "jobs")
MAY_IMPORT = {
    "channels": {"channels"},
    "samplers": {"samplers", "channels"},
    "models": {"models", "channels"},
    "orchestrator": {"orchestrator", "models", "samplers", "channels"},
    "jobs": set(ROOMS),
}
ENGINES = {"ray", "deepspeed", "mlflow", "submitit"}
HEAVY = ("ray", "deepspeed", "mlflow", "sionna", "matplotlib", "submitit", "h5py", "scipy")


def imported(path: Path) -> set[str]:
    """Top-level names imported anywhere in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & set(ROOMS) <= MAY_IMPORT[room]
    if room in ("channels", "samplers", "models"):
        assert not names & ENGINES
    if room == "samplers" and path.name != "batches.py":
        assert "torch" not in names


def test_rooms_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)


def test_the_command_line_imports_no_engine() -> None:
    """`wavetrain --help` must not wait for seconds of imports."""
    code = f"import sys, jobs.cli.main; print([name for name in sys.modules if name in {HEAVY!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
