"""Brings a run's outbox and events to MLflow, from where the last delivery came to.

The thread of a live run and ``wavetrain sync`` do the same thing.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channels.files import parse_json, write_json
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.mlflow_run import Tracker

if TYPE_CHECKING:
    from models.interface import Shape

POLL_S = 0.3
BACKOFF_CAP_S = 60.0
LAST_DELIVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """How far deliveries came: bytes of both files, the last step, and the run that they went to."""

    entries: int = 0
    events: int = 0
    step: int = -1
    run_id: str | None = None
    experiment_id: str | None = None
    key: str | None = None
    """What the run is known by in MLflow before its id is."""


class Delivery:
    """Brings what a run's folder holds to MLflow; repeating it changes nothing. Threads may share it."""

    def __init__(self, directory: RunDirectory, uri: str, experiment: str, artifacts: Path, name: str) -> None:
        self._directory = directory
        self.uri = uri
        self._where = (experiment, artifacts, name)
        self._tracker: Tracker | None = None
        # Two threads that connect at the same time would make two MLflow runs.
        self._lock = threading.RLock()
        self.delivered = _read(directory.delivered)

    def connect(self) -> Tracker:
        """The MLflow run, created or found. Raises UserError where MLflow does not answer."""
        with self._lock:
            if self._tracker is None:
                experiment, artifacts, name = self._where
                key = self._key()
                began_s = _first_time(self._directory.tracking)
                self._tracker = Tracker(self.uri, experiment, artifacts, name, self.delivered.run_id, key, began_s)
                if self._tracker.run_id != self.delivered.run_id:
                    # Another server, or one whose run was deleted: it gets everything.
                    self.delivered = Delivered(key=key)
                self._tracker.last_step = self.delivered.step
                self._keep(self._tracker, self.delivered.entries, self.delivered.events)
            return self._tracker

    def pending(self) -> bool:
        """Whether something has not been delivered."""
        files = ((self._directory.tracking, self.delivered.entries), (self._directory.events, self.delivered.events))
        return any(path.exists() and path.stat().st_size > done for path, done in files)

    def deliver(self) -> None:
        """Everything that is there now, events before entries: the last entry may be the end."""
        with self._lock:
            tracker = self.connect()
            events, behind_events = read_events(self._directory.events, self.delivered.events)
            if events:
                tracker.drain(events)
                self._keep(tracker, self.delivered.entries, behind_events)
            entries, behind_entries = read_events(self._directory.tracking, self.delivered.entries)
            for entry in entries:
                _hand_over(tracker, entry, self._directory.path, self.uri)
            if entries:
                self._keep(tracker, behind_entries, self.delivered.events)

    def _key(self) -> str:
        """On the disk before MLflow hears of it: whoever asks again after a lost answer uses the same."""
        if self.delivered.key is None:
            self.delivered = replace(self.delivered, key=uuid.uuid4().hex)
            write_json(self._directory.delivered, asdict(self.delivered))
        return str(self.delivered.key)

    def _keep(self, tracker: Tracker, entries: int, events: int) -> None:
        key = self.delivered.key
        self.delivered = Delivered(entries, events, tracker.last_step, tracker.run_id, tracker.experiment_id, key)
        write_json(self._directory.delivered, asdict(self.delivered))


def _read(path: Path) -> Delivered:
    return Delivered(**parse_json(path.read_bytes())) if path.exists() else Delivered()


def _first_time(path: Path) -> float | None:
    """Seconds since 1970 of the first whole line; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        line = file.readline()
    return float(json.loads(line)["time"]) if line.endswith(b"\n") else None


def _hand_over(tracker: Tracker, entry: Mapping[str, Any], folder: Path, uri: str) -> None:
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
        case "model":
            _register(tracker, uri, folder / entry["path"], entry["name"], tuple(entry["shape"]))
        case "end":
            tracker.end(entry["status"], entry["time"])


def _register(tracker: Tracker, uri: str, export: Path, name: str, shape: "Shape") -> None:
    """Put a model into the registry; a refusal is said and no more, because the run's folder has the model."""
    # It needs torch, which a command that looks after runs shall not import.
    from orchestrator.tracking.model_registry import register_patiently

    version, problem = register_patiently(uri, lambda: tracker.run_id, export, name, shape)
    if problem is None:
        tracker.tags({"model.version": f"{name}/{version}"})
    else:
        logging.getLogger(__name__).warning("the model is not registered (%s)", _one_line(problem))


class DeliveryThread(threading.Thread):
    """Delivers while a run goes on, with growing pauses where MLflow does not take it; the run never waits for it."""

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
            self.problem = _one_line(error)
            return False
        self.problem = None
        return True

    def end_directly(self, tags: Mapping[str, str], status: str) -> str | None:
        """Send MLflow the end of a run whose folder cannot take it; what is wrong, or None."""
        if self.is_alive():
            return self.problem or "MLflow does not answer"
        try:
            tracker = self.delivery.connect()
            tracker.tags(tags)
            tracker.end(status)
        # As above; that of a database on the same full disk, for one.
        except Exception as error:
            return _one_line(error)
        return None

    def finish(self, is_hurried: Callable[[], bool] = lambda: False) -> str | None:
        """Deliver what is left, but not for long; what is wrong, or None if MLflow has everything.

        is_hurried: whether it is not waited for any longer.
        """
        self._ending.set()
        deadline = time.monotonic() + LAST_DELIVERY_S
        while self.is_alive() and not is_hurried() and (left_s := deadline - time.monotonic()) > 0:
            self.join(min(left_s, POLL_S))
        late = "it was not waited for" if is_hurried() else "MLflow does not answer"
        return self.problem or (late if self.is_alive() else None)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}"
