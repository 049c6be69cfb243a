"""A session's folders, its own as long as its first process lives: a lock on a file in them ends with that process.

The reaper removes what a killed controller leaves. Where both are killed at once, as with a whole control group, the
next session of this user on the machine does.
"""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from orchestrator.control.ray_train import reaper

PREFIX = "wt-"
OWNER = "owner.lock"


class SessionMemory:
    """A session's folder in the machine's memory, where that has one; what killed sessions left there is removed.

    folder: of the session, which has the same name.
    """

    def __init__(self, folder: Path) -> None:
        remove_abandoned(reaper.SHARED_MEMORY)
        self._owner: TextIO | None = None
        self.environment: dict[str, str] = {}
        """The variable that names it."""
        own_folder = reaper.memory_of(folder)
        try:
            own_folder.mkdir(mode=0o700)
            self._owner = own(own_folder)
        except OSError:
            # There is no such memory, or it is full.
            return
        self.environment = {reaper.MEMORY: str(own_folder)}

    def release(self) -> None:
        """It may be removed."""
        if self._owner is not None:
            self._owner.close()


def own(folder: Path) -> TextIO:
    """Make a folder ours until the returned file is closed or this process has ended, however it ends."""
    unlocked = folder / f".{OWNER}"
    file = unlocked.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    # The name by which others look for it appears when the lock is held.
    unlocked.rename(folder / OWNER)
    return file


def remove_abandoned(parent: Path) -> list[Path]:
    """Delete this user's folders of sessions whose owner is gone; those that were deleted."""
    removed = []
    for owner in parent.glob(f"{PREFIX}*/{OWNER}"):
        if _is_abandoned(owner):
            reaper.remove_session(owner.parent)
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
