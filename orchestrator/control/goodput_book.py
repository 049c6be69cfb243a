"""Keeps a run's ledger while its controller lives: in ``state.json`` for who asks now, and in MLflow."""

import os
import time
from pathlib import Path

from orchestrator.run.folder import RunDirectory
from orchestrator.run.ledger_reader import LedgerReader
from orchestrator.tracking.outbox import Outbox

KEEP_S = 30.0
"""Seconds between two writes of the ledger into the state."""
TRACK_S = 600.0
"""Seconds between two points of its metrics."""


class GoodputBook:
    """The ledger of a run that goes on."""

    def __init__(self, directory: RunDirectory, outbox: Outbox) -> None:
        self._directory, self._outbox = directory, outbox
        self._reader = LedgerReader(directory)
        self._kept = self._tracked = time.monotonic()

    def follow(self) -> None:
        """Take in what is new; now and then it is written down."""
        self._reader.advance()
        now = time.monotonic()
        if now - self._kept > KEEP_S:
            self._kept = now
            self._keep()
        if now - self._tracked > TRACK_S:
            self._tracked = now
            self._track()

    def close(self) -> None:
        """Write down how the run has spent its time until now, its end."""
        self._reader.advance()
        self._keep()
        self._track()

    def _keep(self) -> None:
        ledger = self._reader.ledger
        seconds = {part: round(value, 3) for part, value in ledger.seconds.items()}
        self._directory.update_state(goodput={"share": round(ledger.share, 4), "seconds": seconds})

    def _track(self) -> None:
        ledger = self._reader.ledger
        self._outbox.metrics(ledger.to_metrics(), step=ledger.step, time_s=time.time())


def process_began_s() -> float:
    """When this process was started, seconds since 1970."""
    # Fields follow the name, which may hold spaces: the 22nd is the start in ticks since the machine was booted.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - max(age, 0.0)
