"""A full disk as the one line that a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from channels.errors import UserError
from channels.files import is_disk_full


@contextmanager
def disk_full_as_user_error(path: Path) -> Iterator[None]:
    """Around the writing of a file of a run; what was written whole before stays.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        mend = "free some space; the same command goes on from the last checkpoint"
        raise UserError("the disk is full", where=str(path), mend=mend) from error
