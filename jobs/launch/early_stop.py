"""SIGTERM while a command still imports: it ends at once, with the exit code of a stop request."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 128 + signal.SIGTERM


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Exit with 143 at SIGTERM for the time of a ``with``, until a run handles the signal itself.

    Nothing is unwound: an exception in the middle of an import may be caught by whatever is being imported. What a
    command has begun by then ends as it does when the process is killed.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(CODE)
