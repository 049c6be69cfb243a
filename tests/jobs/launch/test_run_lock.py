"""The lock of a run: one holder, and questions about it that no holder can notice."""

import subprocess
import sys
from pathlib import Path

import pytest

from channels.errors import UserError
from jobs.launch.run_status import run_status
from orchestrator.run.file_lock import is_locked
from orchestrator.run.folder import RunDirectory, run_lock

POLLER = """
import sys
from pathlib import Path
from jobs.launch.run_status import run_status
from orchestrator.run.folder import RunDirectory
directory = RunDirectory(Path(sys.argv[1]))
while True:
    run_status(directory, lambda submission: None)
    print(end=".", flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path)
    found.update_state(status="RUNNING")
    return found


def test_a_lock_is_seen_and_ends_with_its_holder(directory: RunDirectory) -> None:
    assert not is_locked(directory.lock)
    with run_lock(directory):
        assert is_locked(directory.lock)
        with pytest.raises(UserError, match="another controller"), run_lock(directory):
            pass
        assert is_locked(directory.lock)
    assert directory.lock.exists() and not is_locked(directory.lock)


def test_a_run_of_somebody_else_can_be_asked_about(directory: RunDirectory) -> None:
    with run_lock(directory):
        directory.lock.chmod(0o444)
        assert is_locked(directory.lock)


def test_a_busy_status_refuses_no_start(directory: RunDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", POLLER, str(directory.path)], stdout=subprocess.PIPE) as poller:
        assert poller.stdout is not None
        poller.stdout.read(1)
        for _ in range(2000):
            with run_lock(directory):
                pass
        assert run_status(directory, lambda submission: None).state == "KILLED"
        assert poller.poll() is None
        poller.kill()
