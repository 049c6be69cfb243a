"""Temporary folders of killed jobs."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs.node.session_folder import SessionFolder
from orchestrator.control.owned_folders import remove_abandoned
from orchestrator.control.ray_train import reaper

KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from jobs.node.session_folder import SessionFolder
from orchestrator.control.ray_train import reaper
make, folders, reaper.SHARED_MEMORY = tempfile.mkdtemp, *map(Path, sys.argv[1:])
tempfile.mkdtemp = lambda prefix, dir: make(prefix=prefix, dir=folders)
folder = SessionFolder()
print(folder.path, *folder.memory.environment.values(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_owner_is_removed_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In /tmp and /dev/shm whatever else starts here removes abandoned folders, too.
    make, folders, memories = tempfile.mkdtemp, tmp_path / "folders", tmp_path / "memories"
    folders.mkdir()
    memories.mkdir()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix, dir: make(prefix=prefix, dir=folders))
    monkeypatch.setattr(reaper, "SHARED_MEMORY", memories)
    living, foreign = SessionFolder(), folders / "wt-foreign"
    foreign.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, folders, memories], capture_output=True, text=True)
    abandoned, memory = map(Path, done.stdout.split())
    assert abandoned.parent == folders and memory.parent == memories and memory.exists()
    (abandoned / "session").mkdir()
    assert remove_abandoned(folders) == [abandoned]
    assert not abandoned.exists() and not memory.exists()
    assert living.path.exists() and foreign.exists(), "without our lock file it is not ours to remove"
    living.remove()
    assert not living.path.exists() and not list(memories.iterdir())


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wt-x").mkdir()
    (tmp_path / "wt-x" / "owner.lock").touch()
    monkeypatch.setattr("orchestrator.control.owned_folders.os.getuid", lambda: -1)
    assert remove_abandoned(tmp_path) == []
