"""Tasks on patches: from the embedding of every patch to the entries of its channel, and the error over the test set.

A linear head is the least squares that its gradient steps go to, so it is solved and not trained. Only real entries
that the task does not give count. Tokenising moves numbers and changes none: sums over tokens are sums over channels.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channels.errors import UserError
from models.elements import find_elements
from orchestrator.downstream.embedding import Batches, Embeddings
from orchestrator.downstream.heads import Scaling
from orchestrator.downstream.pool import READ_AT_ONCE, Pool
from orchestrator.downstream.task import Given
from orchestrator.downstream.views import given_entries
from orchestrator.evaluation.score import decibels

RIDGE = 1e-6
"""Of the mean diagonal of the normal equations: embeddings may depend on each other linearly."""


@dataclass(frozen=True, slots=True)
class PatchSet:
    """Patches of one set. features: float32 [n, L, width]. targets: float32 [n, L, D], the channel's entries in the
    places of their tokens. counted: bool [L, D], those that are predicted and scored. rows: of its samples in the pool.
    """

    features: Tensor
    targets: Tensor
    counted: Tensor
    rows: NDArray[np.int64]

    def of(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features and targets of those of some rows of the pool that are in this set."""
        mine = torch.from_numpy(np.flatnonzero(np.isin(self.rows, chosen)))
        return self.features[mine], self.targets[mine]


def patch_sets(pool: Pool, batches: Sequence[Batches], embeddings: Embeddings, given: Given | None) -> list[PatchSet]:
    """Of all sets, in their order."""
    found = []
    for one, batch in zip(pool.sets, batches, strict=True):
        features = torch.from_numpy(embeddings.of("patches", one))
        targets, counted = _targets(batch, one.count, given)
        found.append(PatchSet(features, targets, counted, one.rows))
    return found


def _targets(batch: Batches, count: int, given: Given | None) -> tuple[Tensor, Tensor]:
    """``targets`` and ``counted`` of a set."""
    shape = batch.spec.tokenise(np.zeros((1, *batch.shape), np.complex64), batch.patch).values.shape[1:]
    elements = find_elements(batch.spec, batch.shape, batch.patch)
    if elements is None:
        mend = "choose another encoder for this task"
        raise UserError(f"tokens of {batch.spec.name} are not the channel's numbers", where="interpolation", mend=mend)
    source = elements.index.flatten()
    pieces = []
    for start in range(0, count, READ_AT_ONCE):
        index = np.arange(start, min(start + READ_AT_ONCE, count))
        numbers = torch.view_as_real(torch.from_numpy(batch.read(index)[1])).flatten(1)
        pieces.append(torch.zeros(len(numbers), math.prod(shape)).index_copy(1, source, numbers))
    missing = np.ones(batch.shape, np.bool_) if given is None else ~given_entries(batch.shape, given)
    counted = torch.zeros(math.prod(shape), dtype=torch.bool)
    counted[source] = torch.from_numpy(np.repeat(missing.reshape(-1), 2))
    return torch.cat(pieces).reshape(count, -1, shape[1]), counted.reshape(shape).repeat(batch.per_stored, 1)


@dataclass(frozen=True, slots=True)
class PatchMap:
    """A linear head: weights float64 [width + 1, D], the last row added as it is, on scaled features."""

    scaling: Scaling
    weights: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Entries float64 [n, L, D] of features [n, L, width]."""
        scaled = self.scaling.apply(features).double()
        return scaled @ self.weights[:-1] + self.weights[-1]


def check_entries(sets: Sequence[PatchSet], train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
    """Raises UserError where an entry of a token is tested, but counted in no set that has training samples."""
    trained, tested = (_counted_in(sets, rows) for rows in (train, test))
    missing = int((tested & ~trained).sum())
    if missing:
        what = f"no training sample has {missing} of the {len(tested)} numbers of a token, which are tested"
        raise UserError(what, where="interpolation", mend="take sets of one scale, or a smaller patch side")


def _counted_in(sets: Sequence[PatchSet], rows: NDArray[np.int64]) -> Tensor:
    """Bool [D]: the entries of tokens that count in a set with some of these samples."""
    found = torch.zeros(sets[0].counted.shape[1], dtype=torch.bool)
    for part in sets:
        if np.isin(part.rows, rows).any():
            found |= part.counted.any(dim=0)
    return found


def solve(sets: Sequence[PatchSet], train: NDArray[np.int64]) -> PatchMap:
    """The linear head of least error over the counted entries of the training samples; it gives 0 for entries that
    they have not."""
    parts = [(*part.of(train), part.counted) for part in sets]
    scaling = Scaling.of(torch.cat([features.flatten(0, 1) for features, _, _ in parts]))
    width, entries = parts[0][0].shape[2], parts[0][1].shape[2]
    # Tokens that count the same entries have one pair of normal equations; most sets have few kinds of tokens.
    left: dict[bytes, Tensor] = defaultdict(lambda: torch.zeros(width + 1, width + 1, dtype=torch.float64))
    right: dict[bytes, Tensor] = defaultdict(lambda: torch.zeros(width + 1, entries, dtype=torch.float64))
    masks: dict[bytes, Tensor] = {}
    for features, targets, counted in parts:
        kinds, kind_of = torch.unique(counted, dim=0, return_inverse=True)
        for number, mask in enumerate(kinds):
            chosen, key = kind_of == number, mask.numpy().tobytes()
            rows = nn.functional.pad(scaling.apply(features[:, chosen]).flatten(0, 1), (0, 1), value=1.0).double()
            masks[key] = mask
            left[key] += rows.T @ rows
            right[key] += rows.T @ targets[:, chosen].flatten(0, 1).double()
    weights = torch.zeros(width + 1, entries, dtype=torch.float64)
    of_entry = torch.stack(list(masks.values()))
    for kinds_of_entry in torch.unique(of_entry, dim=1).T:
        if not kinds_of_entry.any():
            continue
        columns = (of_entry == kinds_of_entry[:, None]).all(dim=0)
        keys = [key for key, holds in zip(masks, kinds_of_entry.tolist(), strict=True) if holds]
        matrix = torch.stack([left[key] for key in keys]).sum(dim=0)
        # The last diagonal entry counts tokens.
        if not matrix[-1, -1]:
            continue
        matrix += RIDGE * matrix.diagonal().mean() * torch.eye(width + 1, dtype=torch.float64)
        products = torch.stack([right[key] for key in keys]).sum(dim=0)
        weights[:, columns] = torch.linalg.solve(matrix, products[:, columns])
    return PatchMap(scaling, weights)


Predict = Callable[[int, NDArray[np.int64]], Tensor]
"""Entries [n, L, D] of a set, by its number, and of some of its samples, by their index in the set."""


def error_db(predict: Predict, sets: Sequence[PatchSet], test: NDArray[np.int64]) -> float:
    """NMSE in dB: the sums, over all test samples, of the squared error and of the power of the counted entries."""
    error, power = 0.0, 0.0
    for number, part in enumerate(sets):
        index = np.flatnonzero(np.isin(part.rows, test))
        for start in range(0, len(index), READ_AT_ONCE):
            some = index[start : start + READ_AT_ONCE]
            truth = part.targets[torch.from_numpy(some)].double()
            error += float(((predict(number, some).double() - truth).square() * part.counted).sum())
            power += float((truth.square() * part.counted).sum())
    return decibels(error / power)
