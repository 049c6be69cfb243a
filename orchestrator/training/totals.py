"""How far a run is, and what was done in the epoch under way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.training.collectives import gather, sum_over_ranks
from orchestrator.training.loader import StepBatch
from orchestrator.training.step_report import StepResult
from samplers.catalogue import Catalogue
from samplers.schedule import Slice

PART = 1 << 20
"""Samples that are hashed at a time."""


class EpochCoverage:
    """How often each sample was trained on: one byte a sample of the catalogue; fillers (weight 0) do not count.

    The ranks exchange a count and a sum of hashes, which are those of each sample once only if that is what was seen,
    but for a chance of 2^-64; the bytes only where they are not.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        offsets: dict[str, int] = {}
        total = 0
        self._offset = np.zeros(len(catalogue.sources), np.int64)
        for number, source in enumerate(catalogue.sources):
            pool = source.pool or source.name
            if pool not in offsets:
                offsets[pool] = total
                total += sum(other.count for other in catalogue.sources if (other.pool or other.name) == pool)
            self._offset[number] = offsets[pool]
        self._seen = np.zeros(total, np.uint8)
        self._count = self._hashes = 0
        self._hashes_of_part: int | None = None

    def add(self, slices: Sequence[Slice]) -> None:
        """Count the true samples of this rank's slices."""
        for slice_ in slices:
            true = slice_.weight > 0
            samples = self._offset[slice_.source[true]] + slice_.index[true]
            np.add.at(self._seen, samples, 1)
            self._count += len(samples)
            self._hashes += hash_sum(samples)

    def finish(self) -> tuple[float, float]:
        """Shares of samples that were seen, and seen more than once (collective); the next epoch begins."""
        if self._hashes_of_part is None:
            # Each rank hashes its part of all samples, once an attempt.
            total, world = len(self._seen), dist.get_world_size()
            first, last = (total * number // world for number in (dist.get_rank(), dist.get_rank() + 1))
            self._hashes_of_part = hash_sum_of_range(first, last)
        ahead = (self._hashes - self._hashes_of_part + 2**63) % 2**64 - 2**63
        sums = _over_ranks(torch.tensor([self._count, ahead], dtype=torch.int64))
        if sums.tolist() == [len(self._seen), 0]:
            found = (1.0, 0.0)
        else:
            seen = _over_ranks(torch.from_numpy(self._seen.astype(np.int32)))
            found = (float((seen > 0).double().mean()), float((seen > 1).double().mean()))
        self._seen[:] = 0
        self._count = self._hashes = 0
        return found


def hash_sum(samples: NDArray[np.int64]) -> int:
    """Sum of the samples' hashes modulo 2^64 (SplitMix64, Steele et al. 2014)."""
    mixed = samples.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((mixed ^ (mixed >> np.uint64(31))).sum())


def hash_sum_of_range(first: int, last: int) -> int:
    """:func:`hash_sum` of the samples from ``first`` to ``last`` - 1."""
    parts = (np.arange(at, min(at + PART, last)) for at in range(first, last, PART))
    return sum(map(hash_sum, parts)) % 2**64


def _over_ranks(values: Tensor) -> Tensor:
    on_device = values.cuda() if dist.get_backend() == "nccl" else values
    dist.all_reduce(on_device)
    return on_device.cpu()


class EpochTotals:
    """Sums over the steps of an epoch. A resumed attempt takes up those of all ranks, not those of this rank."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._coverage = EpochCoverage(catalogue)
        self._seconds = 0.0
        self._padded, self._valid = 0, 0
        self._own_padded = 0
        self._sample_weights: list[float] = []

    @property
    def saved(self) -> tuple[float, int, int]:
        """What a training state keeps: seconds, computed tokens, valid tokens, of all ranks."""
        return self._seconds, self._padded, self._valid

    def resume(self, saved: tuple[float, int, int], slices_done: Iterable[Sequence[Slice]]) -> None:
        """Take up what earlier attempts did. slices_done: of this rank, by step, those that were trained on."""
        self._seconds, self._padded, self._valid = saved
        for slices in slices_done:
            self._coverage.add(slices)

    def add(self, batch: StepBatch, result: StepResult, seconds: float) -> None:
        """Count a step that was trained on."""
        self._coverage.add(batch.slices)
        self._seconds += seconds
        self._padded += result.padded_tokens
        self._valid += batch.valid_tokens
        self._own_padded += batch.padded_tokens
        self._sample_weights.append(batch.weight / batch.true_samples)

    def finish(self, epoch: int, moved: Mapping[str, float]) -> dict[str, float]:
        """Metrics of an epoch that is done (collective); the next one begins.

        moved: this rank's share of the bytes that the placement of shards has moved.
        """
        coverage, repeated = self._coverage.finish()
        moved_by_all = sum_over_ranks(moved)
        metrics = {
            "data/coverage": coverage,
            "data/repeated": repeated,
            "data/sample_weight_spread": _spread(self._sample_weights),
            "data/epoch_padding_ratio": 1.0 - self._valid / max(self._padded, 1),
            "perf/epoch_tokens_per_s": self._valid / max(self._seconds, 1e-9),
            "time/epoch_min": self._seconds / 60,
            "train/epochs_done": float(epoch + 1),
            "data/rank_imbalance": _imbalance(gather(self._own_padded)),
            **moved_by_all,
        }
        self._seconds = 0.0
        self._padded = self._valid = self._own_padded = 0
        self._sample_weights.clear()
        return metrics


@dataclass(slots=True)
class Progress:
    """What all attempts of a run have done together."""

    epoch: EpochTotals
    """Of the epoch under way."""
    step: int = 0
    """Optimizer steps done."""
    train_seconds: float = 0.0


def _imbalance(tokens: Sequence[int]) -> float:
    """(most - fewest) / mean of what the ranks computed."""
    return (max(tokens) - min(tokens)) / max(float(np.mean(tokens)), 1.0)


def _spread(weights: Sequence[float]) -> float:
    """Largest over smallest; 1 for none."""
    return max(weights, default=1.0) / min(weights, default=1.0)
