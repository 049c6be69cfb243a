"""The work on one encoder at one patch side: its embeddings, and the heads of all tasks, kept task by task."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.downstream.embedding import METHOD, Batches, Embeddings, embeddings_of
from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.heads import Scaling, train_head
from orchestrator.downstream.interpolation import PatchSet, check_entries, error_db, patch_sets, solve
from orchestrator.downstream.labels import Targets, check_classes, find_targets
from orchestrator.downstream.metrics import score
from orchestrator.downstream.pool import Pool, open_pool
from orchestrator.downstream.results.scores import Score, read_part, write_part
from orchestrator.downstream.spec import DownstreamSpec
from orchestrator.downstream.splits import Split, make_split, share_of
from orchestrator.downstream.task import Normalisation, Task, read_tasks
from orchestrator.downstream.tuning import Tunable, make_tunable, train_patches, train_vectors, whole_batch
from orchestrator.downstream.views import view_of
from orchestrator.run.file_lock import try_lock

Say = Callable[[str], None]
"""Takes a line about the progress."""
WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Bench:
    """What all encoders are compared on: samples, tasks with their labels, and the split of every seed."""

    spec: DownstreamSpec
    pool: Pool
    tasks: tuple[Task, ...]
    targets: dict[str, Targets]
    splits: tuple[Split, ...]

    def key(self, encoder: Encoder, task: Task) -> str:
        """SHA-256 of everything that the scores of an encoder on a task depend on."""
        chosen = self.spec.model_dump(mode="json", exclude={"name", "store", "encoders", "tasks", "patches", "mlflow"})
        identity = {
            "method": METHOD,
            "weights": encoder.fingerprint(),
            "store": self.pool.store.fingerprint,
            "task": task.model_dump(mode="json"),
            "spec": chosen,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_bench(spec: DownstreamSpec) -> Bench:
    """Everything checked that can be before an encoder runs.

    Raises:
        UserError: as the store, the tasks, their labels and the splits do; and for a share that holds too little.
    """
    tasks = read_tasks(spec.tasks)
    pool = open_pool(ChannelStore.open(spec.store), spec.sets, spec.samples, spec.gain)
    targets = {task.name: find_targets(task, pool) for task in tasks if task.feature != "patches"}
    splits = tuple(make_split(pool, spec.split, seed) for seed in range(spec.seeds))
    for seed, split in enumerate(splits):
        for share in spec.shares:
            rows = share_of(split.train, share, seed)
            where = f"share of {share} %, seed {seed}"
            if len(rows) < 2:
                what = f"{len(rows)} training sample of {len(split.train)}"
                raise UserError(what, where=where, mend="take larger shares, or more samples")
            for task in (task for task in tasks if task.is_classification):
                labels = targets[task.name].values
                rows = share_of(split.train, share, seed, labels)
                check_classes(task, labels[rows], labels[split.test], where)
    return Bench(spec, pool, tasks, targets, splits)


def run_work(bench: Bench, encoder: Encoder, folder: Path, device: str, say: Say, *, wait: bool = True) -> list[Score]:
    """The scores of an encoder on all tasks; those that the folder has from an earlier call are not computed again.

    wait: False leaves out what another process works on.
    """
    found: list[Score] = []
    for task in bench.tasks:
        # Patches of another side are the same raw numbers in another order, which heads on all of them do not see.
        shared = encoder.folder is None and task.feature != "patches"
        one = replace(encoder, patch=bench.spec.patches[0]) if shared else encoder
        scores = _part(bench, one, task, folder, device, say, wait)
        found += [replace(score, patch=encoder.patch) for score in scores or ()]
    return found


def _part(
    bench: Bench, encoder: Encoder, task: Task, folder: Path, device: str, say: Say, wait: bool
) -> list[Score] | None:
    """The scores on one task; None where they are not waited for."""
    path = folder / "scores" / f"{encoder.key}-{task.name}.json"
    key = bench.key(encoder, task)
    kept = read_part(path, key)
    if kept is not None:
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        while not try_lock(lock):
            if not wait:
                return None
            time.sleep(WAIT_S)
        # The one who had it may have been done just now.
        kept = read_part(path, key)
        if kept is not None:
            return kept
        scores = _Trial(bench, encoder, task, folder / "embeddings", device).scores()
        write_part(path, key, scores)
    say(f"{encoder.name} {encoder.patch}x{encoder.patch}, {task.name}: {_summary(scores)}")
    return scores


def _summary(scores: Sequence[Score]) -> str:
    last = [one for one in scores if one.metric == scores[0].metric and one.share == scores[-1].share]
    return f"{last[0].metric} {np.mean([one.value for one in last]):.3f} with {last[0].share} % of the labels"


class _Trial:
    """One encoder on one task."""

    def __init__(self, bench: Bench, encoder: Encoder, task: Task, folder: Path, device: str) -> None:
        self.bench, self.encoder, self.task, self.device = bench, encoder, task, device
        self.normalisation: Normalisation = bench.spec.normalisation or task.normalisation
        self.feature = encoder.feature(task.feature)
        # Nothing of the raw channel can be trained.
        self.unfreeze = 0 if encoder.folder is None else bench.spec.unfreeze
        view = view_of(task, bench.spec.normalisation)
        # One pass of the encoder for all tasks that show it the same.
        features = {
            encoder.feature(other.feature) for other in bench.tasks if view_of(other, bench.spec.normalisation) == view
        }
        self.embeddings: Embeddings = embeddings_of(encoder, bench.pool, view, features, device, folder)
        model_spec = encoder.spec()
        self.batches = [Batches(bench.pool, one, model_spec, encoder.patch, view) for one in bench.pool.sets]
        self.tokens = [whole_batch(batch) for batch in self.batches] if self.unfreeze else []
        self.sets: list[PatchSet] = []
        self.vectors = torch.empty(0)
        if task.feature == "patches":
            self.sets = patch_sets(bench.pool, self.batches, self.embeddings, task.given)
        else:
            self.vectors = self._vectors()

    def scores(self) -> list[Score]:
        """Of all seeds and shares."""
        found: list[Score] = []
        classes = self.bench.targets[self.task.name].values if self.task.is_classification else None
        for seed, split in enumerate(self.bench.splits):
            for share in self.bench.spec.shares:
                train = share_of(split.train, share, seed, classes)
                values, unseen = self._values(train, split.test, seed)
                found += [
                    Score(self.encoder.name, self.encoder.patch, self.task.name, metric, share, seed, value,
                          self.unfreeze, len(train), len(split.test), unseen)
                    for metric, value in values.items()
                ]  # fmt: skip
        return found

    def _values(self, train: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> tuple[dict[str, float], int]:
        task = self.task
        if task.feature == "patches":
            return {"nmse_db": self._patch_error(train, test, seed)}, 0
        targets = self.bench.targets[task.name]
        wanted = targets.values[test]
        unseen = check_classes(task, targets.values[train], wanted, "training") if task.is_classification else 0
        outputs = self._outputs(targets, train, test, seed)
        return {metric: score(metric, outputs, wanted) for metric in task.metrics}, unseen

    def _outputs(
        self, targets: Targets, train: NDArray[np.int64], test: NDArray[np.int64], seed: int
    ) -> NDArray[np.float64]:
        features, tested = self.vectors[torch.from_numpy(train)], self.vectors[torch.from_numpy(test)]
        if not self.unfreeze:
            return train_head(self.task, features, targets.values[train], targets.outputs, tested, seed)
        tunable = self._tunable()
        firsts = np.asarray([one.first for one in self.bench.pool.sets])

        def feature_of_set(number: int, index: NDArray[np.int64]) -> Any:
            found = tunable.feature(self.feature, number, index)
            return self._with_gain(found, firsts[number] + index)

        return train_vectors(
            self.task, feature_of_set, tunable.layers, Scaling.of(features), firsts, targets.values, targets.outputs,
            train, test, seed,
        )  # fmt: skip

    def _patch_error(self, train: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> float:
        check_entries(self.sets, train, test)
        if not self.unfreeze and not self.task.hidden:
            head = solve(self.sets, train)
            return error_db(lambda number, index: head(self.sets[number].features[torch.from_numpy(index)]),
                            self.sets, test)  # fmt: skip
        if not self.unfreeze:
            return train_patches(
                self.task, lambda number, index: self.sets[number].features[torch.from_numpy(index)],
                torch.nn.Identity(), self.sets, train, test, seed,
            )  # fmt: skip
        tunable = self._tunable()
        return train_patches(
            self.task, lambda number, index: tunable.feature("patches", number, index), tunable.layers, self.sets,
            train, test, seed,
        )  # fmt: skip

    def _tunable(self) -> Tunable:
        """Of the exported weights: what another share or seed has trained is not seen."""
        _, model = self.encoder.load()
        return make_tunable(model, self.unfreeze, self.batches, self.tokens, self.device)

    def _vectors(self) -> torch.Tensor:
        """Float32 [N, width], one of every sample, the gain behind it where the task has it."""
        found = torch.from_numpy(self.embeddings.joined(self.feature, self.bench.pool))
        return self._with_gain(found, np.arange(self.bench.pool.count))

    def _with_gain(self, vectors: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        if self.normalisation != "gain":
            return vectors
        gain = torch.from_numpy(self.bench.pool.gain_db[rows].astype(np.float32))
        return torch.cat([vectors, gain[:, None]], dim=1)
