"""The ledger of a run from its files, as far as they go and on from there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.run.goodput import Ledger

Record = Mapping[str, Any]


class LedgerReader:
    """Keeps a ledger up with the files of a run."""

    def __init__(self, directory: RunDirectory) -> None:
        self._offsets: dict[Path, int] = dict.fromkeys((directory.tracking, directory.failures, directory.events), 0)
        self.ledger = Ledger()

    def advance(self) -> Ledger:
        """Take in what is new."""
        found = []
        for path, offset in self._offsets.items():
            records, self._offsets[path] = read_events(path, offset)
            found.append(records)
        for record in in_order(found):
            self.ledger.add(record)
        return self.ledger


def in_order(files: Sequence[Sequence[Record]]) -> Iterator[Record]:
    """Records of several files by their time; those of one file keep their order, whatever their times are."""
    positions = [0] * len(files)
    while ready := [number for number, records in enumerate(files) if positions[number] < len(records)]:
        first = min(ready, key=lambda number: files[number][positions[number]]["time"])
        yield files[first][positions[first]]
        positions[first] += 1
