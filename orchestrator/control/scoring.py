"""Scoring an exported model, in Ray tasks: one a held-out set, one for all validation samples; keeping the best one."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channels.files import write_json
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.evaluation.score import Score, decibels, overall
from orchestrator.evaluation.table import to_metrics
from orchestrator.evaluation.validation import Validation, validate
from orchestrator.run.disk_full import disk_full_as_user_error
from orchestrator.run.exports import SCORE, best_so_far, previous_best
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec, Select


@dataclass(frozen=True, slots=True)
class Scores:
    """What is known of one export. zeroshot: in the order of the sets. validation: None where none was asked for."""

    zeroshot: list[Score]
    validation: Validation | None = None

    def to_metrics(self) -> dict[str, float]:
        """All of them by their names in MLflow."""
        return to_metrics(self.zeroshot) | (self.validation.to_metrics() if self.validation else {})

    def chosen_by(self, select: Select) -> float | None:
        """The linear NMSE that chooses the best model; None where nothing does."""
        if select == "val":
            return self.validation.overall if self.validation else None
        return overall(self.zeroshot) if select == "zeroshot" else None


@dataclass(slots=True)
class Scoring:
    """Tasks under way that score one export. waiting: one a held-out set, then one for validation if asked for."""

    export: Path
    waiting: list[Any]
    validates: bool = False
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _order: dict[Any, int] = field(default_factory=dict)
    _done: dict[int, Any] = field(default_factory=dict)

    def poll(self, timeout_s: float) -> Scores | None:
        """The scores, once all are there."""
        import ray

        if not self._order:
            self._order = {reference: number for number, reference in enumerate(self.waiting)}
        ready, self.waiting = ray.wait(self.waiting, num_returns=len(self.waiting), timeout=timeout_s)
        self._done |= {self._order[reference]: ray.get(reference) for reference in ready}
        self.seconds = time.monotonic() - self.started
        if self.waiting:
            return None
        found = [part for _, part in sorted(self._done.items())]
        validation = found.pop() if self.validates else None
        return Scores([score for part in found for score in part], validation)

    def cancel(self) -> None:
        """Give up what is not done."""
        import ray

        for reference in self.waiting:
            ray.cancel(reference, force=True)


def start_scoring(
    job: JobSpec,
    profile: Profile,
    store: Path,
    sets: Sequence[str],
    validation: Sequence[str],
    export: Path,
    *,
    beside_training: bool,
) -> Scoring:
    """Submit a task for every held-out set, and one for the validation samples of all pre-training sets.

    store: folder of the channels. sets, validation: names of those to score. export: folder of the model.
    beside_training: on the CPU and without a claim on resources, all of which the ranks hold.
    """
    import ray

    gpu = profile.device == "cuda" and not beside_training
    cpus = 0 if beside_training else profile.cpus_per_worker
    claim = ray.remote(num_cpus=cpus, num_gpus=int(gpu))
    paths = (export.resolve(), store.resolve())
    device = "cuda" if gpu else "cpu"
    tasks = [claim(_score_remotely).remote(*paths, name, job, profile, device) for name in sets]
    if validation:
        tasks.append(claim(_validate_remotely).remote(*paths, tuple(validation), job, profile, device))
    return Scoring(export, tasks, validates=bool(validation))


def _score_remotely(export: Path, store: Path, name: str, job: JobSpec, profile: Profile, device: str) -> list[Score]:
    import torch

    torch.set_num_threads(profile.cpus_per_worker)
    return evaluate_set(export, store, name, job, device)


def _validate_remotely(
    export: Path, store: Path, names: Sequence[str], job: JobSpec, profile: Profile, device: str
) -> Validation:
    import torch

    torch.set_num_threads(profile.cpus_per_worker)
    return validate(export, store, names, job, device)


def keep_if_best(directory: RunDirectory, export: Path, found: float | None, step: int, select: Select) -> bool:
    """Make an export the content of ``model-best/`` if no earlier one scored better, and protect its checkpoint.

    found: its linear NMSE by what ``select`` names, None where nothing chooses. Scores by something else do not count.

    Raises:
        UserError: the disk is full; the best model is still the one before.
    """
    if found is None or not math.isfinite(found):
        return False
    best = best_so_far(directory)
    if best is not None and best.select == select and best.nmse <= found:
        return False
    new = directory.best.with_name(f".{directory.best.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with disk_full_as_user_error(new):
            new.mkdir(parents=True)
            for path in export.iterdir():
                shutil.copy2(path, new)
            write_json(new / SCORE, {"step": step, "nmse": found, "nmse_db": decibels(found), "select": select})
            if directory.best.exists():
                shutil.rmtree(previous_best(directory), ignore_errors=True)
                directory.best.replace(previous_best(directory))
            new.replace(directory.best)
    finally:
        # A full disk ends this half-way; later scores need not be better and would leave the copy there.
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(previous_best(directory), ignore_errors=True)
    return True
