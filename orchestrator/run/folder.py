"""The folder of a run: what lies where, its lock, and whether a start may go on with it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from channels.errors import UserError
from channels.files import clear_unfinished, is_unfinished, write_json
from orchestrator.run.disk_full import disk_full_as_user_error
from orchestrator.run.file_lock import try_lock
from orchestrator.spec.job import JobSpec
from orchestrator.spec.kept import read_kept_job
from orchestrator.spec.yaml_files import differences

LOCK_POLL_S = 0.2
LAUNCH_WRITE_S = 600.0
"""Nobody takes so long to write a small file."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Names inside a run's folder."""

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved job spec."""
        return self.path / "spec.json"

    @property
    def state(self) -> Path:
        """Status, attempts and MLflow run id."""
        return self.path / "state.json"

    @property
    def lock(self) -> Path:
        """Locked by the controller that works on the run."""
        return self.path / "controller.lock"

    @property
    def plan(self) -> Path:
        """Buckets and what follows from them."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """One JSON line a step, written by rank 0."""
        return self.path / "events.jsonl"

    @property
    def system(self) -> Path:
        """The newest system metrics of every machine."""
        return self.path / "system"

    @property
    def tracking(self) -> Path:
        """What MLflow is to receive, a JSON line an entry."""
        return self.path / "tracking.jsonl"

    @property
    def delivered(self) -> Path:
        """How much of it and of the events MLflow has."""
        return self.path / "delivered.json"

    @property
    def scores(self) -> Path:
        """One JSON line a model that was scored beside the training."""
        return self.path / "scores.jsonl"

    @property
    def failures(self) -> Path:
        """One JSON line a failed attempt."""
        return self.path / "failures.jsonl"

    @property
    def adjustments(self) -> Path:
        """What later attempts do differently because of them."""
        return self.path / "adjustments.json"

    @property
    def samples(self) -> Path:
        """Which samples every rank trained on, where the job asks for it."""
        return self.path / "samples"

    @property
    def attempts(self) -> Path:
        """What every rank of every attempt printed, and where it ran."""
        return self.path / "attempts"

    @property
    def stacks(self) -> Path:
        """Stacks of ranks that hung."""
        return self.path / "stacks"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """Final weights and model configuration."""
        return self.path / "model"

    @property
    def initial(self) -> Path:
        """The exported model whose weights the run began with, where the job names one (``model.init``)."""
        return self.path / "init"

    @property
    def exports(self) -> Path:
        """Weights after epochs that wait to be scored."""
        return self.path / "exports"

    @property
    def best(self) -> Path:
        """The export with the best zero-shot NMSE so far, and its score."""
        return self.path / "model-best"

    @property
    def results(self) -> Path:
        """Tables and pictures."""
        return self.path / "results"

    @property
    def profile(self) -> Path:
        """Trace and summary of profiled steps."""
        return self.path / "profile"

    @property
    def launch(self) -> Path:
        """What a launcher left before the run began: code, job ids, meetings of nodes."""
        return self.path / "launch"

    @property
    def launch_tags(self) -> Path:
        """MLflow tags that the launcher gives to the run, as JSON."""
        return self.launch / "tags.json"

    @property
    def stop_request(self) -> Path:
        """Exists when the run was asked to checkpoint and stop."""
        return self.path / "stop.request"

    @property
    def placed(self) -> Path:
        """Exists from the start of ranks for which there is room to the failure of their attempt."""
        return self.path / "placed"

    @property
    def pause_request(self) -> Path:
        """Exists when the group was asked to save and wait, because it will be resized."""
        return self.path / "pause.request"

    @property
    def paused(self) -> Path:
        """Exists while a group that saved waits for that."""
        return self.path / "paused"

    def read_state(self) -> dict[str, Any]:
        """The content of ``state.json``; empty for a new run."""
        return json.loads(self.state.read_text()) if self.state.exists() else {}

    def update_state(self, **fields: Any) -> dict[str, Any]:
        """Change fields of ``state.json`` atomically."""
        state = {**self.read_state(), **fields}
        with disk_full_as_user_error(self.state):
            write_json(self.state, state)
        return state

    def read_spec(self) -> JobSpec:
        """The spec the run was started with."""
        return read_kept_job(self.spec)


def check_resumable(directory: RunDirectory, spec: JobSpec, store_fingerprint: str) -> bool:
    """Whether the folder holds an unfinished run of this very job.

    Raises:
        UserError: a finished run, or one of another job, has the name.
    """
    if not directory.spec.exists():
        launchers = {directory.launch, directory.lock}
        found_here = directory.path.iterdir() if directory.path.exists() else ()
        # A start that was killed at its first write leaves a temporary file.
        if {path for path in found_here if not is_unfinished(path)} - launchers:
            raise UserError(
                "the folder is not empty and holds no run", where=str(directory.path), mend="choose another name"
            )
        return False
    found = differences(directory.read_spec().training_identity, spec.training_identity)
    if found:
        mend = f"it was started with another spec ({found[0]}); choose another name or the same spec"
        raise UserError(f"run name {spec.name!r} exists", where=str(directory.path), mend=mend)
    state = directory.read_state()
    if state.get("store_fingerprint", store_fingerprint) != store_fingerprint:
        mend = "it was started on other channels; choose another name or restore the store"
        raise UserError(f"run name {spec.name!r} exists", where=str(directory.path), mend=mend)
    if state.get("status") == "FINISHED":
        mend = f"choose another name (--set name=...) or look at it: wavetrain evaluate {spec.name}"
        raise UserError(f"run name {spec.name!r} exists and is finished", where=str(directory.path), mend=mend)
    return True


def clear_left_writes(directory: RunDirectory) -> None:
    """Remove the temporary files of writers that were killed; for the controller that has the run's lock."""
    for path in directory.path.iterdir() if directory.path.exists() else ():
        if path == directory.launch:
            # Nodes of a Slurm job write there now.
            clear_unfinished(path, older_than_s=LAUNCH_WRITE_S)
        elif path.is_dir():
            clear_unfinished(path)
        elif is_unfinished(path):
            path.unlink(missing_ok=True)


def _try_lock(file: TextIO, directory: RunDirectory) -> bool:
    """As ``try_lock``; where the file system has no locks, a folder that holds nothing else is taken away again."""
    try:
        return try_lock(file)
    except UserError:
        if [path.name for path in directory.path.iterdir()] == [directory.lock.name]:
            directory.lock.unlink()
            directory.path.rmdir()
        raise


@contextmanager
def run_lock(directory: RunDirectory, patience_s: float = 0.0) -> Iterator[None]:
    """Keep every other controller out of the run while this one works; one that is ending is waited for.

    Raises:
        UserError: another controller still works on the run after ``patience_s``, or the file system has no locks.
    """
    deadline = time.monotonic() + patience_s
    with directory.lock.open("a") as file:
        while not _try_lock(file, directory):
            if time.monotonic() >= deadline:
                mend = "wait for it or stop it"
                raise UserError("another controller is working on this run", where=str(directory.path), mend=mend)
            time.sleep(LOCK_POLL_S)
        yield
