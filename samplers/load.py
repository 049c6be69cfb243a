"""How many tokens one rank computes in an optimizer step: on average, and at most."""

from dataclasses import dataclass

import numpy as np

from samplers.catalogue import Catalogue
from samplers.padding import expected_padded_tokens
from samplers.permutation import Integers
from samplers.plan import Bucket
from samplers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Tokens of one rank in a step, padding included: the expected mean, and the most that chance can deal it."""

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


def _mean(schedule: Schedule, bucket: Bucket, samples: int) -> float:
    """Expected tokens of a slice on one rank; padded, to the longest that the rank holds."""
    lengths, counts = _lengths(schedule.catalogue, bucket)
    if schedule.plan.packed:
        return samples * float(np.average(lengths, weights=counts))
    return samples * expected_padded_tokens(lengths, counts, samples) / bucket.samples


def _most(schedule: Schedule, bucket: Bucket, samples: int) -> int:
    """Tokens of a slice on one rank if it holds the longest samples of the bucket."""
    if not schedule.plan.packed:
        return samples * bucket.length
    lengths, counts = _lengths(schedule.catalogue, bucket)
    order = lengths.argsort()[::-1]
    taken = np.diff(np.minimum(counts[order].cumsum(), samples), prepend=0)
    return int(taken @ lengths[order])


def _lengths(catalogue: Catalogue, bucket: Bucket) -> tuple[Integers, Integers]:
    """Length and number of the samples of each piece, int64 [pieces] each."""
    lengths = np.asarray([catalogue[piece.source].length for piece in bucket.pieces], np.int64)
    return lengths, np.asarray([piece.count for piece in bucket.pieces], np.int64)
