"""The run's own record: rank 0 appends lines to ``events.jsonl``, the controller reads them from an offset."""

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.run.disk_full import disk_full_as_user_error


class EventWriter:
    """Appends one JSON object a line; a line is written whole and flushed. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, kind: str, **fields: Any) -> None:
        """Append an event; ``time`` is seconds since 1970, of this moment unless given."""
        line = json.dumps({"kind": kind, "time": time.time(), **fields}, separators=(",", ":"))
        with self._lock, disk_full_as_user_error(self._path):
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
        with disk_full_as_user_error(self._path):
            self._file.close()


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
