"""Small files written whole or not at all, and what stands at a path that a user gives."""

import errno
import json
import os
import re
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from channels.errors import UserError

_TEMPORARY = re.compile(r"\..+\.\d+(-\d+)?\.tmp", re.DOTALL)


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write to a temporary name beside ``path``, of this thread alone, fsync, rename."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def unfinished_writes(path: Path) -> list[Path]:
    """Temporary files that :func:`write_atomically` leaves for ``path`` where its process is killed."""
    return sorted(path.parent.glob(f".{path.name}.*.tmp"))


def is_unfinished(path: Path) -> bool:
    """Whether a file has a temporary name of :func:`write_atomically`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def clear_unfinished(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove what killed writers left in a folder and below. Nobody else may be writing there now.

    older_than_s: leaves younger ones alone, where others may be writing after all.
    """
    for path in [path for path in folder.rglob(".*.tmp") if is_unfinished(path)]:
        # Another writer may rename its file now.
        with suppress(FileNotFoundError):
            if path.is_file() and time.time() - path.stat().st_mtime >= older_than_s:
                path.unlink()


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError where it is none, or nests deeper than Python can follow."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written atomically."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def is_there(path: Path) -> bool:
    """Whether something stands at a path. Raises UserError where that cannot be seen (permission, too long a name)."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether a regular file stands at a path. Raises UserError as ``is_there``."""
    return stat.S_ISREG(_mode(path) or 0)


def is_folder(path: Path) -> bool:
    """Whether a folder stands at a path. Raises UserError as ``is_there``."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    """Type and permissions of what stands at a path, None where nothing does."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    # A path with a zero byte is no path.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        mend = "check the path, and that you may enter every folder of it"
        raise UserError(f"cannot be looked at ({reason})", where=str(path), mend=mend) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Whether a disk, or somebody's quota on it, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_no_locks(error: OSError) -> bool:
    """Whether a lock was refused because the file system has none (Lustre without ``flock``, some FUSE mounts)."""
    return error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


def no_locks(path: Path) -> UserError:
    """What to say of that. path: what was to be locked."""
    mend = "have it mounted with locks (Lustre: -o flock, one node alone: -o localflock), or choose a folder elsewhere"
    return UserError("its file system has no file locks", where=str(path), mend=mend)
