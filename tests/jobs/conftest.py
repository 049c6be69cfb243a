"""Commands that are called in the tests' own process leave it as they found it."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def sigterm_ends_the_tests() -> Iterator[None]:
    """A command handles SIGTERM to its process's end, and what later tests fork would not be ended by it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
