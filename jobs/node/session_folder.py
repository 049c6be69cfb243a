"""A short temporary folder of a node's Ray; one whose owner was killed is removed by the next owner on the machine."""

import tempfile
from pathlib import Path

from orchestrator.control.owned_folders import PREFIX, SessionMemory, own
from orchestrator.control.ray_train.reaper import remove_session


class SessionFolder:
    """A folder that is ours as long as we live, with one in the machine's memory."""

    def __init__(self) -> None:
        # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp" if Path("/tmp").is_dir() else None))
        self._owner = own(self.path)
        self.memory = SessionMemory(self.path)

    def remove(self) -> None:
        """Delete it and all in it."""
        remove_session(self.path)
        self.memory.release()
        self._owner.close()
