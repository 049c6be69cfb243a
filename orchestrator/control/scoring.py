"""Scoring an exported model on the held-out sets, one Ray task each, and keeping the best one of a run."""

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
from orchestrator.run.disk_full import disk_full_as_user_error
from orchestrator.run.exports import SCORE, best_so_far, previous_best
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec


@dataclass(slots=True)
class Scoring:
    """Tasks under way that score one export."""

    export: Path
    waiting: list[Any]
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _order: dict[Any, int] = field(default_factory=dict)
    _done: dict[int, list[Score]] = field(default_factory=dict)

    def poll(self, timeout_s: float) -> list[Score] | None:
        """The scores, in the order of the sets, once all are there."""
        import ray

        if not self._order:
            self._order = {reference: number for number, reference in enumerate(self.waiting)}
        ready, self.waiting = ray.wait(self.waiting, num_returns=len(self.waiting), timeout=timeout_s)
        self._done |= {self._order[reference]: ray.get(reference) for reference in ready}
        self.seconds = time.monotonic() - self.started
        return None if self.waiting else [score for _, part in sorted(self._done.items()) for score in part]

    def cancel(self) -> None:
        """Give up what is not done."""
        import ray

        for reference in self.waiting:
            ray.cancel(reference, force=True)


def start_scoring(
    job: JobSpec, profile: Profile, store: Path, sets: Sequence[str], export: Path, *, beside_training: bool
) -> Scoring:
    """Submit a task for every held-out set.

    store: folder of the channels. sets: names of those to score. export: folder of the model.
    beside_training: on the CPU and without a claim on resources, all of which the ranks hold.
    """
    import ray

    gpu = profile.device == "cuda" and not beside_training
    cpus = 0 if beside_training else profile.cpus_per_worker
    remote = ray.remote(num_cpus=cpus, num_gpus=int(gpu))(_score_remotely)
    paths = (export.resolve(), store.resolve())
    device = "cuda" if gpu else "cpu"
    return Scoring(export, [remote.remote(*paths, name, job, profile, device) for name in sets])


def _score_remotely(export: Path, store: Path, name: str, job: JobSpec, profile: Profile, device: str) -> list[Score]:
    import torch

    torch.set_num_threads(profile.cpus_per_worker)
    return evaluate_set(export, store, name, job, device)


def keep_if_best(directory: RunDirectory, export: Path, scores: list[Score], step: int) -> bool:
    """Make an export the content of ``model-best/`` if no earlier one scored better, and protect its checkpoint.

    Raises:
        UserError: the disk is full; the best model is still the one before.
    """
    best, found = best_so_far(directory), overall(scores)
    if not math.isfinite(found) or (best is not None and best[1] <= found):
        return False
    new = directory.best.with_name(f".{directory.best.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with disk_full_as_user_error(new):
            new.mkdir(parents=True)
            for path in export.iterdir():
                shutil.copy2(path, new)
            write_json(new / SCORE, {"step": step, "nmse": found, "nmse_db": decibels(found)})
            if directory.best.exists():
                shutil.rmtree(previous_best(directory), ignore_errors=True)
                directory.best.replace(previous_best(directory))
            new.replace(directory.best)
    finally:
        # A full disk ends this half-way; later scores need not be better and would leave the copy there.
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(previous_best(directory), ignore_errors=True)
    return True
