"""The controller of a Slurm attempt as a child of the head: it imports while the nodes are checked, and then begins."""

import subprocess
import sys
from contextlib import suppress

from jobs.launch.attempt_word import AFTER_WORD, WORD
from jobs.node import own_processes
from jobs.node.ray_node import RayNode


class ControllerProcess:
    """Started as soon as the head's Ray answers, since its imports take seconds; it does nothing before :meth:`begin`.

    Where the attempt ends before that, it ends with all that the node has started.
    """

    def __init__(self, node: RayNode, run: str, address: str) -> None:
        command = [sys.executable, "-m", "jobs.launch.attempt", run, address, AFTER_WORD]
        self._child = own_processes.start(command, node.environment, log=None, stdin=subprocess.PIPE)

    def begin(self) -> "subprocess.Popen[bytes]":
        """Let it begin; the process."""
        assert self._child.stdin is not None
        # One that has ended already says why by its status.
        with suppress(BrokenPipeError), self._child.stdin as word:
            word.write(WORD)
        return self._child
