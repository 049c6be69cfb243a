"""The ledger of a run from its files, as far as they go and on from there."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.run.goodput import SKEW_S, Ledger

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
    """Records of several files by their time; those of one file keep their order, whatever their times are.

    Where the machine's clock was set back, what a file has from before comes before what others have from then on.
    """
    timed = [list(zip(_moments(records), records, strict=True)) for records in files]
    positions = [0] * len(files)
    while ready := [number for number, records in enumerate(timed) if positions[number] < len(records)]:
        first = min(ready, key=lambda number: timed[number][positions[number]][0])
        yield timed[first][positions[first]][1]
        positions[first] += 1


def _moments(records: Sequence[Record]) -> Iterator[tuple[int, float]]:
    """Of each record how often the clock was set back before it, and its time."""
    before, jumps = -math.inf, 0
    for record in records:
        jumps += record["time"] < before - SKEW_S
        before = record["time"]
        yield jumps, before
