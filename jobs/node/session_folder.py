"""A short temporary folder of a node's Ray; one whose owner was killed is removed by the next owner on the machine."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

PREFIX = "wt-"
OWNER = "owner.lock"


class SessionFolder:
    """A folder that is ours as long as we live: the lock on a file in it ends with this process, however it ends."""

    def __init__(self) -> None:
        # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp" if Path("/tmp").is_dir() else None))
        self._owner = self._own()

    def _own(self) -> TextIO:
        unlocked = self.path / f".{OWNER}"
        file = unlocked.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        # The name by which others look for it appears when the lock is held.
        unlocked.rename(self.path / OWNER)
        return file

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._owner.close()


def remove_abandoned(parent: Path) -> list[Path]:
    """Delete this user's session folders whose owner is gone; those that were deleted."""
    removed = []
    for owner in parent.glob(f"{PREFIX}*/{OWNER}"):
        if _is_abandoned(owner):
            shutil.rmtree(owner.parent, ignore_errors=True)
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
