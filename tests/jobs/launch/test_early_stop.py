"""SIGTERM at any moment of the imports: exit code 143, from the first line of ours on; at the end of a run: its own."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

IMPORTS = 1000
"""The command below imports more modules than this."""
WAIT_S = 120
ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, signal, sys
set_handler, left = signal.signal, int(sys.argv.pop(1))
class Stop:
    def find_spec(self, *names):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
def say(number, handler):
    signal.signal = set_handler
    before = set_handler(number, handler)
    os.write(1, b"late\\n" if {"typer", "pydantic", "numpy"} & sys.modules.keys() else b"ready\\n")
    sys.meta_path.insert(0, Stop())
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


def ended(entry: str, module: int, folder: Path) -> int:
    """Exit code of a command that gets SIGTERM where it imports the module of that number since its handler stands."""
    arguments = ["plan", str(ROOT / "jobs" / "demo.yaml")] if entry == "jobs.cli.main" else ["nowhere.yaml"]
    command = [sys.executable, "-c", PROGRAM.replace("ENTRY", entry), str(module), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=WAIT_S)
    assert done.stdout.startswith(b"ready\n") and b"Traceback" not in done.stderr, done
    return done.returncode


def test_a_stop_at_a_random_moment_of_the_imports_is_143(tmp_path: Path) -> None:
    draw = random.Random(7)
    modules = [1, *(draw.randint(2, IMPORTS) for _ in range(4))]
    assert {module: ended("jobs.cli.main", module, tmp_path) for module in modules} == dict.fromkeys(modules, 143)
    assert not list(tmp_path.iterdir())


def test_what_launchers_start_does_the_same(tmp_path: Path) -> None:
    assert ended("jobs.run", 1, tmp_path) == 143


def test_a_stop_past_the_end_of_a_run_changes_nothing() -> None:
    """Not the exit code, at whatever moment of Python's own end, nor how a command can be ended that starts then."""
    done = subprocess.run(
        [sys.executable, "-c", PAST_STOPPING], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=WAIT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{-signal.SIGTERM}\nends\n", "")
