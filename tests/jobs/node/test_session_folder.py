"""Temporary folders of killed jobs."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.node.session_folder import SessionFolder
from orchestrator.control.owned_folders import remove_abandoned

KILLED = """
import os, signal
from jobs.node.session_folder import SessionFolder
folder = SessionFolder()
print(folder.path, *folder.memory.environment.values(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_owner_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    abandoned, memory = map(Path, done.stdout.split())
    (abandoned / "session").mkdir()
    living, foreign = SessionFolder(), abandoned.parent / f"wt-foreign-{tmp_path.name}"
    foreign.mkdir()
    try:
        assert abandoned in remove_abandoned(abandoned.parent)
        assert not abandoned.exists() and not memory.exists()
        assert living.path.exists() and foreign.exists(), "without our lock file it is not ours to remove"
    finally:
        living.remove()
        foreign.rmdir()
    assert not living.path.exists()


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wt-x").mkdir()
    (tmp_path / "wt-x" / "owner.lock").touch()
    monkeypatch.setattr("orchestrator.control.owned_folders.os.getuid", lambda: -1)
    assert remove_abandoned(tmp_path) == []
