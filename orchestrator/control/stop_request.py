"""SIGINT and SIGTERM ask a run to save and end; they do not end it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Turns SIGINT and SIGTERM into a request; the second signal interrupts at once, while there is anything to."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_hurried = False
        """Whether Ctrl-C has come once more since nothing can be interrupted: what takes long is not waited for."""
        self._interrupting = frozenset((signal.SIGINT, signal.SIGTERM))

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is None:
            self.signal = number
        elif number in self._interrupting:
            raise KeyboardInterrupt
        elif number == signal.SIGINT:
            self.is_hurried = True

    def past_sigterm(self) -> None:
        """All work is done: SIGTERM comes too late from now on, for the rest of the process."""
        self._interrupting -= {signal.SIGTERM}

    def past_interrupting(self) -> None:
        """The end is being written: no signal interrupts any more, and SIGTERM comes too late as above."""
        self._interrupting = frozenset()

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Handle the signals for the time of a ``with``; SIGTERM beyond it too, once it comes too late."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            # An earlier handler of SIGTERM would end the process with the code of a stop, before the caller sees how
            # the run ended.
            for number in {signal.SIGINT, *self._interrupting}:
                signal.signal(number, before[number])
