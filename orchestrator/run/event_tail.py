"""The end of a run's events, read backwards: a file may be long, and what matters of it lies near its end."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from orchestrator.run.events import read_events

BLOCK_BYTES = 1 << 18
TAIL_BYTES = 4 << 20


def last_events(
    path: Path, kinds: Collection[str], before: int | None = None, block_bytes: int = BLOCK_BYTES
) -> dict[str, tuple[int, dict[str, Any]]]:
    """The last event of every kind with its byte offset; a kind that never was is left out.

    before: byte offset where the search begins, that of a line; None: the end of the file. block_bytes: read at a time.
    """
    # As EventWriter writes them, so a line of another kind need not be parsed.
    missing = {kind: f'{{"kind":{json.dumps(kind)}'.encode() for kind in kinds}
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for offset, lines in _blocks_backwards(path, before, block_bytes):
        for kind, beginning in list(missing.items()):
            at = _last_line(lines, beginning)
            if at is not None:
                found[kind] = offset + at, json.loads(lines[at : lines.index(b"\n", at)])
                del missing[kind]
        if not missing:
            break
    return found


def read_tail(path: Path, most: int = TAIL_BYTES) -> tuple[list[dict[str, Any]], int]:
    """The events in the last bytes of a file, and the offset after them.

    Before them come the last attempt and the last step that are not among them, so that the events tell where the run
    is even if the newest attempt is old and the tail is full of something else.
    """
    size = path.stat().st_size if path.exists() else 0
    if size <= most:
        return read_events(path)
    with path.open("rb") as file:
        file.seek(size - most)
        start = size - most + len(file.readline())
    events, offset = read_events(path, start)
    missing = {"attempt", "step"} - {event["kind"] for event in events}
    earlier = sorted(last_events(path, missing, before=start).values(), key=lambda found: found[0])
    return [*(event for _, event in earlier), *events], offset


def _blocks_backwards(path: Path, before: int | None, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines and their byte offsets, the last one first."""
    if not path.exists():
        return
    with path.open("rb") as file:
        position = path.stat().st_size if before is None else before
        rest = b""
        while position > 0:
            position, end = max(0, position - block_bytes), position
            file.seek(position)
            block = file.read(end - position) + rest
            # The first line of a block begins in the block before.
            first = block.find(b"\n") + 1 if position > 0 else 0
            if position > 0 and first == 0:
                rest = block
                continue
            rest = block[:first]
            yield position + first, block[first:]


def _last_line(lines: bytes, beginning: bytes) -> int | None:
    """Where the last line of this beginning is; one that its writer has not finished does not count."""
    whole = lines.rfind(b"\n") + 1
    at = lines.rfind(b"\n" + beginning, 0, whole)
    if at >= 0:
        return at + 1
    return 0 if lines.startswith(beginning) and whole else None
