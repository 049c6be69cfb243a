"""How many tokens a rank computes in an optimizer step: on average, at most, and more than the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplers.padding import expected_padded_tokens
from samplers.partition import length_counts
from samplers.permutation import Integers
from samplers.plan import Bucket
from samplers.schedule import Schedule, Slice


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Tokens of one rank in a step, padding included: the expected mean, and the most that it can draw."""

    mean: float
    largest: int


def rank_load(schedule: Schedule, ranks: int) -> RankLoad:
    """The load of a schedule's steps on so many ranks. Raises UserError unless they divide the partitions."""
    schedule.check_world(ranks)
    buckets = schedule.plan.buckets
    means = [_mean(schedule, bucket, bucket.batch_size // ranks) for bucket in buckets]
    most = max(_most(schedule, bucket, bucket.batch_size // ranks) for bucket in buckets)
    slices = schedule.slices_of_buckets()
    mean = float(np.average(means, weights=slices)) if slices.any() else float(np.mean(means))
    return RankLoad(mean=schedule.slices * mean, largest=schedule.slices * most)


def rank_of_samples(total: int, partitions: int, world: int) -> NDArray[np.int64]:
    """Rank that serves each of the samples of a slice of all ranks: int64 [total]."""
    return np.repeat(np.arange(partitions) % world, total // partitions)


def step_imbalance(schedule: Schedule, slices: Sequence[Slice], ranks: int) -> float:
    """(most - mean) / mean of the tokens that the ranks compute in one step: what the others wait, as a share.

    slices: the slices of all ranks together. Padded, a rank's slice is as long as its longest sample.
    """
    lengths = np.asarray([source.length for source in schedule.catalogue], np.int64)
    tokens = sum((_of_ranks(schedule, held, lengths, ranks) for held in slices), np.zeros(ranks))
    return float(tokens.max() / max(tokens.mean(), 1.0)) - 1.0


def _of_ranks(schedule: Schedule, held: Slice, lengths: Integers, ranks: int) -> NDArray[np.float64]:
    """Tokens float64 [ranks] of a slice; packed, fillers are left out."""
    rank = rank_of_samples(len(held.source), schedule.partitions, ranks)
    length = lengths[held.source]
    if schedule.plan.packed:
        return np.bincount(rank, weights=length * held.weight, minlength=ranks).astype(np.float64)
    longest = np.zeros(ranks)
    np.maximum.at(longest, rank, length)
    return longest * (len(length) // ranks)


def _mean(schedule: Schedule, bucket: Bucket, samples: int) -> float:
    """Expected tokens of a slice on one rank; padded, to the longest that the rank holds."""
    lengths, counts = length_counts(schedule.catalogue, bucket.spans)
    if schedule.plan.packed:
        return samples * float(np.average(lengths, weights=counts))
    return samples * expected_padded_tokens(lengths, counts, samples) / bucket.samples


def _most(schedule: Schedule, bucket: Bucket, samples: int) -> int:
    """Tokens of a slice on one rank if it holds the longest samples of the bucket."""
    if not schedule.plan.packed:
        return samples * bucket.length
    lengths, counts = length_counts(schedule.catalogue, bucket.spans)
    order = lengths.argsort()[::-1]
    taken = np.diff(np.minimum(counts[order].cumsum(), samples), prepend=0)
    return int(taken @ lengths[order])
