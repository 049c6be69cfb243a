"""What a run has to tell MLflow, kept in its folder first: a dead tracking server delays it and loses nothing.

The controller writes entries to ``tracking.jsonl``; steps and epochs lie in ``events.jsonl`` already. A delivery reads
both from where it came to last time, so the thread of a live run and ``wavetrain sync`` are the same thing.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from channels.files import parse_json, write_json
from orchestrator.run.events import EventWriter, read_events, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.yaml_files import flatten
from orchestrator.tracking.mlflow_run import Tracker

POLL_S = 0.3
BACKOFF_CAP_S = 60.0
LAST_DELIVERY_S = 20.0


class Outbox:
    """Takes what is meant for the MLflow run."""

    def __init__(self, directory: RunDirectory) -> None:
        repair(directory.tracking)
        self._folder = directory.path
        self._writer = EventWriter(directory.tracking)

    def parameters(self, nested: Mapping[str, Any]) -> None:
        """The resolved spec."""
        self._writer.write("parameters", values={key: str(value) for key, value in flatten(nested).items()})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags (the last value counts)."""
        self._writer.write("tags", values=dict(tags))

    def metrics(self, values: Mapping[str, float], step: int, time_s: float) -> None:
        """Metrics of one step."""
        self._writer.write("metrics", values=dict(values), step=step, time_s=time_s)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file of the run's folder; it must stay there."""
        self._writer.write("artifact", path=os.path.relpath(path, self._folder), folder=folder)

    def dataset(self, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Which data the run uses."""
        self._writer.write("dataset", values=[name, digest, source, profile, context])

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._writer.write("end", status=status)
        self._writer.sync()

    def close(self) -> None:
        """No more entries."""
        self._writer.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Delivered:
    """How far deliveries came: bytes of both files, the last step, and the run that they went to."""

    entries: int = 0
    events: int = 0
    step: int = -1
    run_id: str | None = None
    experiment_id: str | None = None


class Delivery:
    """Brings what a run's folder holds to MLflow; repeating it changes nothing."""

    def __init__(self, directory: RunDirectory, uri: str, experiment: str, artifacts: Path, name: str) -> None:
        self._directory = directory
        self._uri = uri
        self._where = (experiment, artifacts, name)
        self._tracker: Tracker | None = None
        self.delivered = _read(directory.delivered)

    def connect(self) -> Tracker:
        """The MLflow run, created or found. Raises UserError where MLflow does not answer."""
        if self._tracker is None:
            experiment, artifacts, name = self._where
            self._tracker = Tracker(self._uri, experiment, artifacts, name, self.delivered.run_id)
            if self._tracker.run_id != self.delivered.run_id:
                # Another server, or one whose run was deleted: it gets everything.
                self.delivered = Delivered()
            self._tracker.last_step = self.delivered.step
            self._keep(self.delivered.entries, self.delivered.events)
        return self._tracker

    def pending(self) -> bool:
        """Whether something has not been delivered."""
        files = ((self._directory.tracking, self.delivered.entries), (self._directory.events, self.delivered.events))
        return any(path.exists() and path.stat().st_size > done for path, done in files)

    def deliver(self) -> None:
        """Everything that is there now, events before entries: the last entry may be the end."""
        tracker = self.connect()
        events, behind_events = read_events(self._directory.events, self.delivered.events)
        if events:
            tracker.drain(events)
            self._keep(self.delivered.entries, behind_events)
        entries, behind_entries = read_events(self._directory.tracking, self.delivered.entries)
        for entry in entries:
            _hand_over(tracker, entry, self._directory.path)
        if entries:
            self._keep(behind_entries, self.delivered.events)

    def _keep(self, entries: int, events: int) -> None:
        assert self._tracker is not None
        tracker = self._tracker
        self.delivered = Delivered(entries, events, tracker.last_step, tracker.run_id, tracker.experiment_id)
        write_json(self._directory.delivered, asdict(self.delivered))


def _read(path: Path) -> Delivered:
    return Delivered(**parse_json(path.read_bytes())) if path.exists() else Delivered()


def _hand_over(tracker: Tracker, entry: Mapping[str, Any], folder: Path) -> None:
    match entry["kind"]:
        case "parameters":
            tracker.parameters(entry["values"])
        case "tags":
            tracker.tags(entry["values"])
        case "metrics":
            tracker.metrics(entry["values"], entry["step"], entry["time_s"])
        case "artifact":
            # Relative, so that a run's folder may be moved before `wavetrain sync`.
            path = folder / entry["path"]
            if path.exists():
                tracker.artifact(path, entry["folder"])
            else:
                logging.getLogger(__name__).warning("%s is gone and is left out of the run's artifacts", path)
        case "dataset":
            tracker.dataset(*entry["values"])
        case "end":
            tracker.end(entry["status"])


class DeliveryThread(threading.Thread):
    """Delivers while a run lives, with growing pauses where MLflow does not take it; the run never waits for it."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(name="tracking", daemon=True)
        self.delivery = delivery
        self.problem: str | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        """Called by the thread."""
        pause = POLL_S
        while not self._ending.wait(pause):
            pause = POLL_S if self._try() else min(max(2 * pause, 1.0), BACKOFF_CAP_S)
        self._try()

    def _try(self) -> bool:
        try:
            if self.delivery.pending():
                self.delivery.deliver()
        # Whatever a database driver or an HTTP library raises: it is reported, kept for sync, and ends no run.
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            self.problem = f"{type(error).__name__}: {text}"
            return False
        self.problem = None
        return True

    def end_directly(self, tags: Mapping[str, str], status: str) -> str | None:
        """Tell MLflow the end of a run whose folder cannot take it; what is wrong, or None."""
        if self.is_alive():
            return self.problem or "MLflow does not answer"
        try:
            tracker = self.delivery.connect()
            tracker.tags(tags)
            tracker.end(status)
        # As above; that of a database on the same full disk, for one.
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            return f"{type(error).__name__}: {text}"
        return None

    def finish(self) -> str | None:
        """Deliver what is left, but not for long; what is wrong, or None if MLflow has everything."""
        self._ending.set()
        until = time.monotonic() + LAST_DELIVERY_S
        self.join(max(until - time.monotonic(), 0.0))
        if self.is_alive():
            return self.problem or "MLflow does not answer"
        return self.problem
