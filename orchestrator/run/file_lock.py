"""A lock on a file that others can ask about without taking it: an open file description lock of Linux (fcntl(2)).

It belongs to the open file, not to the process: it ends when the file is closed, also by the end of the process.
"""

import errno
import fcntl
import struct
from pathlib import Path
from typing import TextIO

from channels.files import has_no_locks, no_locks

FLOCK = "hhqqi0q"
"""``struct flock`` of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""


def try_lock(file: TextIO) -> bool:
    """Take the lock of a file that is open for writing; False where another open file has it.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _whole_file())
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if has_no_locks(error):
            raise no_locks(Path(file.name)) from None
        raise
    return True


def is_locked(path: Path) -> bool:
    """Whether somebody has the lock of a file; a question that nobody who takes it can notice.

    Raises:
        UserError: the file system has no locks.
    """
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole_file())
        except OSError as error:
            if has_no_locks(error):
                raise no_locks(path) from None
            raise
    return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)


def _whole_file() -> bytes:
    return struct.pack(FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
