"""The run's own record: rank 0 appends lines to ``events.jsonl``, the controller reads them from an offset."""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from channels.errors import UserError


class EventWriter:
    """Appends one JSON object a line; a line is written whole and flushed. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, kind: str, **fields: Any) -> None:
        """Append an event; ``time`` is seconds since 1970, of this moment unless given."""
        line = json.dumps({"kind": kind, "time": time.time(), **fields}, separators=(",", ":"))
        with self._lock, told_when_full(self._path):
            self._file.write(line + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force what was written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with told_when_full(self._path):
            self._file.close()


@contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """Turns a full disk into a UserError; what was written whole before stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        mend = "free some space; the same command goes on from the last checkpoint"
        raise UserError("the disk is full", where=str(path), mend=mend) from error


def repair(path: Path) -> None:
    """Cut off a last line that a killed writer left unfinished."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Whole lines from a byte offset, and the offset after them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    return [json.loads(line) for line in lines], offset + whole
