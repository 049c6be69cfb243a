"""SIGTERM at any moment of the imports: exit code 143, from the first line of ours on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.launch.early_stop import stopped_by_sigterm

IMPORTS_S = 0.6
"""The command below needs longer than this for its imports alone."""
WAIT_S = 120
ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, signal, sys
set_handler = signal.signal
def say(number, handler):
    signal.signal = set_handler
    before = set_handler(number, handler)
    os.write(1, b"late\\n" if {"typer", "pydantic", "numpy"} & sys.modules.keys() else b"ready\\n")
    return before
signal.signal = say
from ENTRY import main
main()
"""


def ended(entry: str, after_s: float, folder: Path) -> int:
    """Exit code of a command that gets SIGTERM so many seconds after its handler stands."""
    arguments = ["plan", str(ROOT / "jobs" / "demo.yaml")] if entry == "jobs.cli.main" else ["nowhere.yaml"]
    command = [sys.executable, "-c", PROGRAM.replace("ENTRY", entry), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT_S)
    assert b"Traceback" not in said, said
    return process.returncode


def test_a_stop_at_a_random_moment_of_the_imports_is_143(tmp_path: Path) -> None:
    draw = random.Random(7)
    moments = [0.0, *(draw.uniform(0.0, IMPORTS_S) for _ in range(4))]
    assert {after_s: ended("jobs.cli.main", after_s, tmp_path) for after_s in moments} == dict.fromkeys(moments, 143)
    assert not list(tmp_path.iterdir())


def test_what_launchers_start_does_the_same(tmp_path: Path) -> None:
    assert ended("jobs.run", 0.0, tmp_path) == 143


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_handler_is_put_back(before: signal.Handlers) -> None:
    found = signal.signal(signal.SIGTERM, before)
    try:
        with stopped_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, found)
