"""How often gradients of two channel sets point away from each other (HeterCSI, Fig. 1c).

A model is trained on batches of one set each. After every epoch, with the weights held still, gradients of the temporal
task are taken over random batches of every set; of each two batches of different sets the cosine is negative or not.
The pairs of sets are those of the figure: one set beside one of the same scale, of a similar and of a different one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interface import MaskDraw, PretrainingModel
from models.layers.parameters import optimizer_groups
from orchestrator.data.reader import TrainingData
from orchestrator.training.engine import task_scale
from samplers.catalogue import Catalogue
from samplers.schedule import Slice

TASK = "time"
CLIP_NORM, WEIGHT_DECAY = 1.0, 0.05
RELATIONS = ("different_scale", "similar_scale", "same_scale")
Pairs = Mapping[str, tuple[str, str]]
"""By relation of their scales, the names of the two sets that are compared."""


@dataclass(frozen=True, slots=True)
class ConflictSetting:
    """epochs: of training. batches: gradients of each set after an epoch. batch: samples of a gradient (published: 16).

    The gradients of an epoch are kept together: sets x batches x parameters numbers of 4 bytes.
    """

    epochs: int
    batches: int
    lr: float
    seed: int
    batch: int = 16


@dataclass(frozen=True, slots=True)
class PairConflict:
    """Of two sets after an epoch: pairs of batches, and how many of them have a negative cosine."""

    epoch: int
    first: str
    second: str
    relation: str
    pairs: int
    negative: int


def measure_conflict(
    data: TrainingData, catalogue: Catalogue, pairs: Pairs, setting: ConflictSetting, on_epoch: Callable[[int], None]
) -> list[PairConflict]:
    """Train on all sets and count; ``on_epoch`` gets the number of each epoch done. On the CPU, in this process."""
    model = data.spec.build(setting.seed)
    optimizer = torch.optim.AdamW([dict(group) for group in optimizer_groups(model, WEIGHT_DECAY)], lr=setting.lr,
                                  betas=(0.9, 0.95))  # fmt: skip
    found: list[PairConflict] = []
    for epoch in range(setting.epochs):
        for batch in _training_batches(catalogue, setting, epoch):
            _train(model, optimizer, data, batch, setting.seed)
        gradients = [_gradients(model, data, catalogue, source, setting, epoch) for source in range(len(catalogue))]
        found += _compare(gradients, catalogue, pairs, epoch + 1)
        on_epoch(epoch + 1)
    return found


def shares(found: Sequence[PairConflict]) -> dict[str, float]:
    """Share of pairs with a negative cosine by relation, over all epochs; relations without a pair are left out."""
    result = {}
    for relation in RELATIONS:
        of = [pair for pair in found if pair.relation == relation]
        if of:
            result[relation] = sum(pair.negative for pair in of) / sum(pair.pairs for pair in of)
    return result


def _training_batches(catalogue: Catalogue, setting: ConflictSetting, epoch: int) -> list[Slice]:
    """All samples once, batches of one set each, in random order."""
    random = np.random.default_rng([setting.seed, epoch])
    batches = []
    for number, source in enumerate(catalogue):
        order = random.permutation(source.count)
        starts = range(0, source.count, setting.batch)
        batches += [_slice(catalogue, number, order[at : at + setting.batch], epoch) for at in starts]
    return [batches[number] for number in random.permutation(len(batches))]


def _slice(catalogue: Catalogue, source: int, index: NDArray[np.int64], epoch: int) -> Slice:
    count = len(index)
    return Slice(
        0, catalogue[source].variant, np.full(count, source, np.int32), index, np.ones(count, np.float32), epoch
    )


def _train(
    model: PretrainingModel, optimizer: torch.optim.Optimizer, data: TrainingData, batch: Slice, seed: int
) -> None:
    scale = torch.from_numpy(task_scale(data.denominators([batch])))
    optimizer.zero_grad()
    (model(data.batch(batch), MaskDraw(seed, batch.epoch)) * scale).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()


def _gradients(
    model: PretrainingModel, data: TrainingData, catalogue: Catalogue, source: int, setting: ConflictSetting, epoch: int
) -> Tensor:
    """Directions float32 [batches, parameters]: gradients of the temporal task, each of norm 1."""
    random = np.random.default_rng([setting.seed, epoch, source])
    task = data.spec.tasks.index(TASK)
    count = catalogue[source].count
    directions = []
    for _ in range(setting.batches):
        index = random.choice(count, min(setting.batch, count), replace=False)
        model.zero_grad()
        model(data.batch(_slice(catalogue, source, index, epoch)), MaskDraw(setting.seed, epoch))[task].backward()
        parts = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        directions.append(torch.nn.functional.normalize(torch.cat(parts), dim=0))
    return torch.stack(directions)


def _compare(gradients: Sequence[Tensor], catalogue: Catalogue, pairs: Pairs, epoch: int) -> list[PairConflict]:
    number = {source.name: number for number, source in enumerate(catalogue)}
    found = []
    for relation, (first, second) in pairs.items():
        cosines = gradients[number[first]] @ gradients[number[second]].T
        found.append(PairConflict(epoch, first, second, relation, cosines.numel(), int((cosines < 0).sum())))
    return found
