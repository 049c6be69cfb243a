"""SIGTERM at any moment of the imports: exit code 143, from the first line of ours on; at the end of a run: its own."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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
PAST_STOPPING = """
import os, signal, subprocess, sys
from jobs.launch.early_stop import past_stopping, stopped_by_sigterm

class Last:
    # Deleted by Python's end itself, after it has taken away all handlers.
    def __del__(self, kill=os.kill, write=os.write, me=os.getpid(), number=signal.SIGTERM):
        kill(me, number)
        write(1, b"ends\\n")

sys.last = Last()
with stopped_by_sigterm():
    past_stopping()
    os.kill(os.getpid(), signal.SIGTERM)
    child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    print(child.wait(), flush=True)
    sys.exit(3)
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


def test_a_stop_past_the_end_of_a_run_changes_nothing() -> None:
    """Not the exit code, at whatever moment of Python's own end, nor how a command can be ended that starts then."""
    done = subprocess.run(
        [sys.executable, "-c", PAST_STOPPING], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=WAIT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{-signal.SIGTERM}\nends\n", "")
