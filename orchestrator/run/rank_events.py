"""The run's events as the ranks write them: rank 0 does, what the others emit goes nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.run.events import EventWriter, repair


@dataclass(frozen=True, slots=True)
class RankEvents:
    """writer: on rank 0; None elsewhere."""

    writer: EventWriter | None

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        if self.writer is not None:
            self.writer.write(kind, **fields)

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self.writer is not None:
            self.writer.sync()


@contextmanager
def rank_events(path: Path, rank: int) -> Iterator[RankEvents]:
    """The events of a run, open until the ``with`` ends; a line that a killed attempt left unfinished is cut off."""
    if rank != 0:
        yield RankEvents(None)
        return
    repair(path)
    with EventWriter(path) as writer:
        yield RankEvents(writer)
