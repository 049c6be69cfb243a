"""Heads trained by gradients together with the last layers of the encoder, and heads on patches that are not linear."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.interface import PretrainingModel, TokenBatch
from orchestrator.downstream.embedding import Batches, feature_of
from orchestrator.downstream.heads import Scaling, build_head, fit
from orchestrator.downstream.interpolation import PatchSet, error_db
from orchestrator.downstream.task import Feature, Task

FeatureOf = Callable[[int, NDArray[np.int64]], Tensor]
"""Features [n, ...] of a set, by its number, and of some of its samples, by their index in the set."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """An encoder whose last layers are trained, and the tokens of all samples.

    model: a copy of its own, in evaluation mode: no dropout. layers: those that are trained. batches: one a set.
    """

    model: PretrainingModel
    layers: nn.ModuleList
    batches: tuple[TokenBatch, ...]
    per_stored: tuple[int, ...]
    device: str

    def feature(self, feature: Feature, number: int, index: NDArray[np.int64]) -> Tensor:
        """A feature of some samples of a set, through which gradients flow; on the CPU."""
        per_stored = self.per_stored[number]
        rows = torch.from_numpy((index[:, None] * per_stored + np.arange(per_stored)).reshape(-1))
        batch = _take(self.batches[number], rows).to(self.device)
        return feature_of(self.model.encode(batch), feature, per_stored).cpu()


def make_tunable(
    model: PretrainingModel, layers: int, batches: Sequence[Batches], tokens: Sequence[TokenBatch], device: str
) -> Tunable:
    """A copy of a model of which the last layers can be trained."""
    copied = copy.deepcopy(model).to(device).eval()
    found = list(copied.encoder_layers())
    assert len(found) >= layers, "the encoder was checked"
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    chosen = nn.ModuleList(found[-layers:])
    for parameter in chosen.parameters():
        parameter.requires_grad_(True)
    return Tunable(copied, chosen, tuple(tokens), tuple(batch.per_stored for batch in batches), device)


def whole_batch(batches: Batches) -> TokenBatch:
    """The tokens of all samples of a set."""
    return batches.read(np.arange(batches.one.count))[0]


def train_vectors(
    task: Task,
    feature_of_set: FeatureOf,
    layers: nn.Module,
    scaling: Scaling,
    firsts: NDArray[np.int64],
    targets: NDArray[Any],
    outputs: int,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """Outputs [m, outputs] for the test rows of a head on one vector a sample, trained together with ``layers``.

    firsts: first row of every set in the pool. scaling: of the features. targets: of all rows of the pool.
    """

    def vectors(rows: NDArray[np.int64]) -> Tensor:
        number = np.searchsorted(firsts, rows, side="right") - 1
        found = torch.empty(len(rows), len(scaling.mean))
        for one in np.unique(number):
            mine = torch.from_numpy(np.flatnonzero(number == one))
            found = found.index_copy(0, mine, feature_of_set(int(one), rows[number == one] - firsts[one]))
        return scaling.apply(found)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = build_head(len(scaling.mean), task.hidden, outputs, task.training).train()
        scale = None
        if task.is_classification:
            wanted = torch.from_numpy(targets[train])
        else:
            numbers = torch.from_numpy(np.asarray(targets[train], np.float32))
            scale = Scaling.of(numbers)
            wanted = scale.apply(numbers)
        loss = functional.cross_entropy if task.is_classification else functional.mse_loss

        def loss_of(chosen: Tensor) -> Tensor:
            return loss(head(vectors(train[chosen.numpy()])), wanted[chosen])

        fit(nn.ModuleList([head, layers]), len(train), loss_of, task.training, seed)
        head.eval()
        with torch.inference_mode():
            pieces = np.array_split(test, max(1, len(test) // task.training.batch))
            found = torch.cat([head(vectors(piece)) for piece in pieces]).double()
            return (found if scale is None else scale.undo(found)).numpy()


def train_patches(
    task: Task,
    feature_of_set: FeatureOf,
    layers: nn.Module,
    sets: Sequence[PatchSet],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
) -> float:
    """NMSE in dB of a head on every patch, trained together with ``layers``."""
    scaling = Scaling.of(torch.cat([part.of(train)[0].flatten(0, 1) for part in sets]))
    entries = sets[0].targets.shape[2]

    def predict(number: int, index: NDArray[np.int64]) -> Tensor:
        features = scaling.apply(feature_of_set(number, index))
        found: Tensor = head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return found

    def loss_of(chosen: Tensor) -> Tensor:
        rows, error, count = train[chosen.numpy()], torch.zeros(()), 0
        for number, part in enumerate(sets):
            index = np.flatnonzero(np.isin(part.rows, rows))
            if len(index):
                truth = part.targets[torch.from_numpy(index)]
                error = error + ((predict(number, index) - truth).square() * part.counted).sum()
                count += len(index) * int(part.counted.sum())
        return error / max(count, 1)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = build_head(len(scaling.mean), task.hidden, entries, task.training).train()
        fit(nn.ModuleList([head, layers]), len(train), loss_of, task.training, seed)
        head.eval()
        with torch.inference_mode():
            return error_db(predict, sets, test)


def _take(batch: TokenBatch, rows: Tensor) -> TokenBatch:
    """Some samples of a batch."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        elements=None if batch.elements is None else batch.elements[rows],
        lengths=batch.lengths[rows],
        grid=batch.grid[rows],
        keys=batch.keys[rows],
        weight=batch.weight[rows],
    )
