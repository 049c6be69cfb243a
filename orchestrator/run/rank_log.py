"""What a rank printed, kept in the run's folder: one file an attempt and a rank, also of a rank that died."""

import faulthandler
import os
import re
import sys
from pathlib import Path

LOG = re.compile(r"^rank-(\d+)\.log$")


def begin_attempt(attempts: Path) -> int:
    """Make the folder of the next attempt; its number, from 1. Called by one process an attempt."""
    attempts.mkdir(exist_ok=True)
    number = max(numbers(attempts), default=0) + 1
    while True:
        try:
            (attempts / str(number)).mkdir()
        except FileExistsError:
            # A file server may hide what another node made a moment ago.
            number += 1
        else:
            return number


def numbers(attempts: Path) -> list[int]:
    """Numbers of the attempts so far, in order."""
    return sorted(int(path.name) for path in attempts.glob("*") if path.name.isdigit())


def log_file(attempts: Path, attempt: int, rank: int) -> Path:
    """Where a rank's output goes."""
    return attempts / str(attempt) / f"rank-{rank}.log"


def logged_ranks(attempts: Path, attempt: int) -> list[int]:
    """Ranks that printed into a log in an attempt."""
    found = (LOG.match(path.name) for path in (attempts / str(attempt)).glob("rank-*.log"))
    return sorted(int(match.group(1)) for match in found if match)


def keep_output(path: Path) -> None:
    """Send the standard output and error of this process into a file from now on, stacks of a crash too.

    The descriptors themselves are redirected: NCCL, CUDA and the C library print past Python.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(file=2, all_threads=True)
