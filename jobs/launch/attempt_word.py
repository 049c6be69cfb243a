"""How a controller that is started ahead hears that it may begin: a line at its standard input."""

import sys
from typing import BinaryIO

AFTER_WORD = "--after-word"
"""Argument of :mod:`jobs.launch.attempt`: begin when the word has come."""
WORD = b"begin\n"


def wait_for_word(source: BinaryIO | None = None) -> bool:
    """Wait for the word at standard input; False where whoever started this process has ended without it."""
    return (source or sys.stdin.buffer).readline() == WORD
