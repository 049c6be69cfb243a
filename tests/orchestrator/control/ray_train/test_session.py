"""Ray's start and end in our process: whose signals they are, what is left, what a slow one says."""

import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._private import node, utils, worker

from channels.errors import UserError
from orchestrator.control.ray_train import lean_node, session
from orchestrator.control.ray_train.sigterm import sigterm_kept
from orchestrator.control.stop_request import StopRequest

ROOT = Path(__file__).parents[4]
NATIVE_WORKER = """
import ctypes, signal, threading, time
import ray
from orchestrator.control.ray_train.sigterm import INSTALL, sigterm_kept
from orchestrator.control.stop_request import StopRequest

class CoreWorker:
    def __init__(self):
        # As Ray's own does on a busy machine, where threads that came before do not block the signal.
        getattr(ctypes.CDLL(ray._raylet.__file__), INSTALL)(b"ray", True)
        signal.pthread_kill(other.ident, signal.SIGTERM)
        time.sleep(3.5)

ray._raylet.CoreWorker = CoreWorker
other = threading.Thread(target=time.sleep, args=(30,), daemon=True)
other.start()
with StopRequest().installed() as stop:
    with sigterm_kept():
        ray._raylet.CoreWorker()
        assert stop.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is stop
    assert ray._raylet.CoreWorker is CoreWorker
print("goes on")
"""

NATIVE_END = """
import ctypes, os, signal
import ray
from orchestrator.control.ray_train import sigterm
from orchestrator.control.stop_request import StopRequest

def shutdown():
    # As Ray's own does when its native worker has ended.
    getattr(ctypes.CDLL(ray._raylet.__file__), sigterm.UNINSTALL)()
    os.kill(os.getpid(), signal.SIGTERM)

ray.shutdown = shutdown
with StopRequest().installed() as stop:
    with sigterm.sigterm_kept():
        sigterm.install_failure_handler(ray._raylet.__file__, lambda: signal.signal(signal.SIGTERM, stop))
    sigterm.shut_down()
    assert stop.signal == signal.SIGTERM
print("goes on")
"""


KILLED = """
import os
from orchestrator.control.ray_train import session
from orchestrator.spec.cluster import Profile

def end(path, *content, **options):
    print(path.parent, oct(path.parent.stat().st_mode & 0o777), flush=True)
    os._exit(143)

session.write_atomically = end
with session.session_ahead(Profile()):
    pass
"""


def test_a_process_that_is_killed_with_its_first_file_leaves_no_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    folder, mode = done.stdout.split()
    assert mode == "0o700"
    deadline = time.monotonic() + 30
    while Path(folder).exists():
        assert time.monotonic() < deadline, folder
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("says", "kind"), [(f"{session.SLOW_START}. This could happen because ...", UserError), ("something else", OSError)]
)
def test_a_machine_on_which_ray_does_not_come_up_in_time_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, kind: type[Exception]
) -> None:
    def start(*arguments: object, **options: object) -> None:
        raise OSError(says)

    monkeypatch.setattr(lean_node, "start_embedded", start)
    with pytest.raises(kind), session._embedded(session.Session(tmp_path, {}), 1, 0):
        pass


def test_ray_still_says_it_so() -> None:
    assert session.SLOW_START in inspect.getsource(node)


def test_a_signal_while_ray_starts_is_ours() -> None:
    replaced = utils.set_sigterm_handler
    with StopRequest().installed() as stop:
        with sigterm_kept():
            utils.set_sigterm_handler(lambda number, frame: os._exit(15))
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is stop
    assert utils.set_sigterm_handler is replaced


@pytest.mark.parametrize("program", [NATIVE_WORKER, NATIVE_END], ids=["start", "end"])
def test_a_signal_while_the_native_worker_comes_up_or_ends_is_ours(program: str) -> None:
    """Ray's handler would print a stack, and abort three seconds after the signal; without any the process is gone."""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_what_ray_replaces_last_is_put_back() -> None:
    with StopRequest().installed() as stop:
        with sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is stop


def test_ray_still_installs_its_handlers_by_these_functions() -> None:
    """Where Ray does it in another way, the tests above say nothing."""
    source = inspect.getsource(worker)
    assert "ray._private.utils.set_sigterm_handler(" in source and "ray._raylet.CoreWorker(" in source
