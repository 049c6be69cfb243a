"""SIGINT and SIGTERM ask a run to save and end; they do not end it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Turns SIGINT and SIGTERM into a request; the second signal interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupts = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is None:
            self.signal = number
        elif self._interrupts:
            raise KeyboardInterrupt

    @contextmanager
    def not_interrupting(self) -> Iterator[None]:
        """For the time of a ``with`` no signal interrupts: what is done there is short, and must be done."""
        self._interrupts = False
        try:
            yield
        finally:
            self._interrupts = True

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Handle the signals for the time of a ``with``."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
