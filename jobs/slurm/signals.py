"""The signals by which Slurm asks a node to end its attempt."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

CANCELLED = "cancelled"
"""The cause where ``wavetrain cancel`` has ended the attempt, and not Slurm."""


@dataclass
class SlurmSignals:
    """Signals so far: before a time limit or preemption (USR1, USR2), and at the end of a job (TERM)."""

    requeue: bool = False
    terminate: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGTERM:
            self.terminate = True
        else:
            self.requeue = True

    @property
    def any(self) -> bool:
        """Whether the attempt is to end."""
        return self.requeue or self.terminate

    @contextmanager
    def installed(self) -> Iterator["SlurmSignals"]:
        """Handle the signals for the time of a ``with``, in place of submitit's handlers."""
        before = {number: signal.signal(number, self) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
