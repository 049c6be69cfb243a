"""Scoring an exported model, in Ray tasks: one a held-out set, one for all validation samples; keeping the best one."""

import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from channels.files import write_json
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.evaluation.score import Score, decibels, overall
from orchestrator.evaluation.shot import named
from orchestrator.evaluation.table import to_metrics
from orchestrator.evaluation.validation import Validation, validate
from orchestrator.run.disk_full import disk_full_as_user_error
from orchestrator.run.exports import SCORE, best_so_far, previous_best
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.data import Shot
from orchestrator.spec.evaluation import Select
from orchestrator.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class Scores:
    """What is known of one export. zeroshot: of the scored sets, in their order; full-shot ones if ``shot`` says so.
    validation: None where none was asked for."""

    zeroshot: list[Score]
    validation: Validation | None = None
    shot: Shot = "zero"

    def to_metrics(self) -> dict[str, float]:
        """All of them by their names in MLflow."""
        return named(to_metrics(self.zeroshot), self.shot) | (self.validation.to_metrics() if self.validation else {})

    def chosen_by(self, select: Select) -> float | None:
        """The linear NMSE that chooses the best model; None where nothing does."""
        if select == "val":
            return self.validation.overall if self.validation else None
        return overall(self.zeroshot) if select == "zeroshot" else None


Task = Callable[[str | None], Any]
"""Submits one task, to a node by Ray's id or wherever there is room, and gives its reference."""


@dataclass(slots=True)
class Scoring:
    """Tasks that score one export. tasks: one a held-out set, then one for validation if asked for.

    one_a_node: they take turns, no node has more than one at a time; otherwise all are submitted at once, and wait for
    the resources that they claim.
    """

    export: Path
    tasks: Sequence[Task]
    validates: bool = False
    shot: Shot = "zero"
    one_a_node: bool = False
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _running: dict[Any, tuple[int, str | None]] = field(default_factory=dict)
    """References, each with the number of its task and its node."""
    _submitted: int = 0
    _done: dict[int, Any] = field(default_factory=dict)

    def poll(self, timeout_s: float) -> Scores | None:
        """The scores, once all are there; otherwise starts what may start and waits for some of it."""
        import ray

        self._submit()
        # Where others wait for their turn, the first that ends makes room.
        awaited = 1 if self._submitted < len(self.tasks) else len(self._running)
        if self._running:
            ready, _ = ray.wait(list(self._running), num_returns=awaited, timeout=timeout_s)
            for reference in ready:
                number, _ = self._running.pop(reference)
                self._done[number] = ray.get(reference)
            self._submit()
        self.seconds = time.monotonic() - self.started
        if len(self._done) < len(self.tasks):
            return None
        found = [part for _, part in sorted(self._done.items())]
        validation = found.pop() if self.validates else None
        return Scores([score for part in found for score in part], validation, self.shot)

    def cancel(self) -> None:
        """Give up what is not done."""
        import ray

        self._submitted = len(self.tasks)
        for reference in self._running:
            ray.cancel(reference, force=True)

    def _submit(self) -> None:
        left = len(self.tasks) - self._submitted
        nodes: Sequence[str | None] = self._free_nodes() if self.one_a_node and left else [None] * left
        for number, node in enumerate(nodes[:left], start=self._submitted):
            self._running[self.tasks[number](node)] = (number, node)
            self._submitted += 1

    def _free_nodes(self) -> list[str]:
        """Nodes that are there now and score nothing."""
        import ray

        taken = {node for _, node in self._running.values()}
        return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in taken]


def start_scoring(
    job: JobSpec,
    profile: Profile,
    store: Path,
    sets: Sequence[str],
    validation: Sequence[str],
    export: Path,
    *,
    beside_training: bool,
    left_out: Collection[str] = (),
) -> Scoring:
    """A task for every held-out set, and one for the validation samples of all pre-training sets.

    store: folder of the channels. sets, validation: names of those to score. export: folder of the model.
    beside_training: the ranks hold all resources, so on the CPU and without a claim: one set at a time on each node, on
    as many threads as one rank has cores. So ranks on the other nodes and the loaders of all ranks keep theirs.
    left_out: names of nodes with a broken device, which no task that needs a device goes to.
    """
    gpu = profile.device == "cuda" and not beside_training
    cpus = 0 if beside_training else profile.cpus_per_worker
    paths, device = (export.resolve(), store.resolve()), "cuda" if gpu else "cpu"

    def task(work: Callable[..., Any], scored: str | tuple[str, ...]) -> Task:
        arguments = (*paths, scored, job, profile, device)
        return partial(_submit, work, arguments, cpus, int(gpu), left_out if gpu else ())

    tasks = [task(_score_remotely, name) for name in sets]
    if validation:
        tasks.append(task(_validate_remotely, tuple(validation)))
    return Scoring(export, tasks, validates=bool(validation), shot=job.data.shot, one_a_node=beside_training)


def _submit(
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    cpus: int,
    gpus: int,
    left_out: Collection[str],
    node: str | None,
) -> Any:
    """Work as a Ray task; if its node dies before it begins, it goes to another."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from orchestrator.control.ray_train.nodes import known_nodes, named, selector_without

    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
    if node is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    elif left_out and (selector := selector_without(named(left_out, known_nodes()))):
        options["label_selector"] = selector
    return ray.remote(**options)(work).remote(*arguments)


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
