"""Workers of an embedded Ray are forked from a process that has imported what they need."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.control.ray_train import fork_server, forked_worker

WORKER = ["/ray/default_worker.py", "--node-id=1"]
OF_TWO_FORKS = """
import os
from orchestrator.control.ray_train.fork_server import _import_ray
assert _import_ray("1") and _import_ray("1") and not _import_ray("2")
from ray._raylet import ObjectID
for _ in range(2):
    if os.fork() == 0:
        print(ObjectID.from_random().hex(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_two_forks_draw_different_ids() -> None:
    done = subprocess.run([sys.executable, "-c", OF_TWO_FORKS], capture_output=True, text=True, timeout=120)
    first, second = done.stdout.split()
    assert first != second, done.stderr


def test_a_worker_is_asked_for_with_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_RAYLET_PID", "17")
    context = json.dumps({"env_vars": {"A": "1"}, "py_executable": sys.executable, "command_prefix": []})
    arguments = [f"{forked_worker.CONTEXT}{context}", *WORKER, "--language=PYTHON"]
    found = forked_worker.worker(arguments)
    assert found is not None and found["arguments"] == WORKER
    assert found["environment"].items() >= {"A": "1", "RAY_RAYLET_PID": "17"}.items()


@pytest.mark.parametrize(
    "context",
    [{"py_executable": "/other/python"}, {"command_prefix": ["cd", "/x"]}, {"env_vars": {"PATH": "$HOME/bin"}}],
    ids=["another-python", "a-command-before", "a-variable-of-variables"],
)
def test_what_a_fork_cannot_give_is_left_to_ray(context: dict[str, object]) -> None:
    assert forked_worker.worker([f"{forked_worker.CONTEXT}{json.dumps(context)}", *WORKER]) is None


def test_who_asks_and_ends_at_once_does_not_end_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_import_ray", lambda raylet: False)
    reads, writes = os.pipe()
    monkeypatch.setattr(fork_server, "STDIN", reads)
    (address,) = fork_server.environment(tmp_path).values()
    monkeypatch.setenv(forked_worker.SERVER, address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        serving = threading.Thread(target=fork_server._serve, args=(server,))
        serving.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ended:
            ended.connect(address)
        assert not forked_worker._ask({"environment": {}}), "no raylet's"
        assert serving.is_alive()
        os.close(writes)
        serving.join(10)
    os.close(reads)
    assert not serving.is_alive(), "it ends with who started it"


def test_without_a_server_ray_starts_the_worker_itself(tmp_path: Path) -> None:
    own = tmp_path / "setup_worker.py"
    own.write_text("import sys; print(*sys.argv[1:])")
    command = [sys.executable, forked_worker.__file__, str(tmp_path / "default_worker.py"), "--node-id=1"]
    environment = {**os.environ, **fork_server.environment(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == command[2:], done.stderr
