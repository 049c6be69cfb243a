"""A short temporary folder of a node's Ray; one whose owner was killed is removed by the next owner on the machine."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TextIO

from orchestrator.control.ray_train.reaper import make_memory, remove_session

PREFIX = "wt-"
OWNER = "owner.lock"


class SessionFolder:
    """A folder that is ours as long as we live: the lock on a file in it ends with this process, however it ends."""

    def __init__(self) -> None:
        # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp" if Path("/tmp").is_dir() else None))
        self._owner = self._own()
        self.memory = make_memory(self.path)
        """Environment variable that names its folder in the machine's memory."""

    def _own(self) -> TextIO:
        unlocked = self.path / f".{OWNER}"
        file = unlocked.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        # The name by which others look for it appears when the lock is held.
        unlocked.rename(self.path / OWNER)
        return file

    def remove(self) -> None:
        """Delete it and all in it."""
        remove_session(self.path)
        self._owner.close()


def remove_abandoned(parent: Path) -> list[Path]:
    """Delete this user's session folders whose owner is gone; those that were deleted."""
    removed = []
    for owner in parent.glob(f"{PREFIX}*/{OWNER}"):
        if _is_abandoned(owner):
            remove_session(owner.parent)
            removed.append(owner.parent)
    return removed


def _is_abandoned(owner: Path) -> bool:
    try:
        if owner.stat().st_uid != os.getuid():
            return False
        with owner.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
