"""System metrics of every node of a run, off the training path.

The first rank of each machine samples it in a thread and leaves the newest sample as a small file in the run's folder;
rank 0 puts its own samples and those it finds there into the run's events, which the controller drains to MLflow.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from channels.files import write_json
from orchestrator.monitoring.system_metrics import SystemSampler, count_gpus
from orchestrator.run.events import EventWriter

FIRST_S = 1.0
"""Seconds until the first sample."""
MOST_S = 60.0
SAMPLES_AT_FULL_RATE = 300
"""After so many samples they become rarer, down to one in ``MOST_S`` seconds: weeks of training stay readable."""


def watches(machines: Sequence[str], rank: int) -> bool:
    """Whether a rank is the one that samples its machine."""
    return machines.index(machines[rank]) == rank


class NodeMonitor:
    """Samples this machine until the ``with`` ends.

    folder: of the run's samples, one file a machine. every_s: seconds between two samples, at first. step: gives the
    optimizer steps done. events: of rank 0, None elsewhere.
    """

    def __init__(
        self, folder: Path, machine: str, every_s: float, step: Callable[[], int], events: EventWriter | None
    ) -> None:
        self._folder, self._machine, self._every_s = folder, machine, every_s
        self._step, self._events = step, events
        self._seen: dict[Path, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-monitor", daemon=True)

    def __enter__(self) -> "NodeMonitor":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._sample_until_the_end()
        # A full disk or a lost folder ends training by itself; an error of a GPU's driver here should not.
        except Exception as error:
            logging.getLogger(__name__).warning("system metrics of %s end here: %s", self._machine, error)

    def _sample_until_the_end(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._read_others()
        sampler = SystemSampler(gpus=count_gpus())
        started = time.monotonic()
        wait = min(FIRST_S, self._every_s)
        while not self._ended.wait(wait):
            self._share(sampler.sample())
            elapsed = time.monotonic() - started
            wait = max(self._every_s, min(elapsed / SAMPLES_AT_FULL_RATE, MOST_S))

    def _share(self, values: dict[str, float]) -> None:
        sample = {"machine": self._machine, "time": time.time(), "step": self._step(), "values": values}
        if self._events is None:
            write_json(self._folder / f"{self._machine}.json", sample)
            return
        for entry in (sample, *self._read_others()):
            metrics = {f"system/{entry['machine']}/{name}": value for name, value in entry["values"].items()}
            self._events.write("system", time=entry["time"], step=entry["step"], metrics=metrics)

    def _read_others(self) -> list[dict[str, Any]]:
        """Samples that came since the last call; the clocks of machines are not compared."""
        if self._events is None:
            return []
        entries = {path: json.loads(path.read_text()) for path in sorted(self._folder.glob("*.json"))}
        fresh = [entry for path, entry in entries.items() if self._seen.get(path) != entry["time"]]
        self._seen = {path: entry["time"] for path, entry in entries.items()}
        return fresh
