"""SIGTERM while a command imports and when its work is done: an exit code that says what has become of the work."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 128 + signal.SIGTERM


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Exit with 143 at SIGTERM for the time of a ``with``, the whole of a command, but for a run's own handler.

    Nothing is unwound: an exception in the middle of an import may be caught by whatever is being imported. What a
    command has begun by then ends as it does when the process is killed.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        # Of all handlers this one alone stays until Python has ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def past_stopping() -> None:
    """The run has ended and the process does so in moments: SIGTERM no longer changes its exit code."""
    signal.signal(signal.SIGTERM, _go_on)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(CODE)


def _go_on(number: int, frame: FrameType | None) -> None:
    """Unlike an ignored signal's, this is not inherited by a command that is started, for example for a notice."""
