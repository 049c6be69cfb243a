"""Bucket boundaries: how the lengths of one variant are cut into buckets.

Every method returns buckets as tuples of spans, in ascending order of length. ``equal`` is the cut of the HeterCSI
paper (arXiv:2601.18200, as its code does it); ``equal_tokens`` is the estimate of Lhotse and NeMo; ``quantile`` puts
boundaries at quantiles of the sample lengths; ``optimal`` is exact dynamic programming over the distinct lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from channels.errors import UserError
from samplers.batch_size import BatchSize, Cost
from samplers.catalogue import Catalogue
from samplers.padding import expected_padded_costs
from samplers.permutation import Integers
from samplers.segmentation import Constraints, Floats, RunCosts, Segments, best_cut

TOKENS, NONE = Cost(), Constraints()


@dataclass(frozen=True, slots=True)
class Span:
    """Elements [start, start + count) of a source."""

    source: int
    start: int
    count: int


def cut(
    catalogue: Catalogue,
    variant: int,
    method: str,
    buckets: int,
    batch_size: BatchSize,
    cost: Cost = TOKENS,
    constraints: Constraints = NONE,
) -> list[tuple[Span, ...]]:
    """Cut the sources of one variant into at most ``buckets`` buckets of ascending length.

    ``optimal`` is the cut of the least expected ``cost`` of an epoch among those whose buckets all fill a slice of
    ``batch_size`` and meet the constraints. Raises UserError where no cut does (naming what is feasible), and for a cut
    of another method that does not meet the constraints.
    """
    numbers = _by_length(catalogue, variant)
    if method == "equal":
        spans = _equal(catalogue, numbers, buckets)
    else:
        segments = segments_of(catalogue, numbers)
        most = min(buckets, len(segments.lengths))
        if method == "optimal":
            batch_size.of_bucket(segments.lengths, segments.counts, _whole_label(catalogue, variant))
            ends = best_cut(segments, _epoch_costs(segments, batch_size, cost), most, constraints)
        else:
            ends = _ends(method, segments, most)
        spans = _whole_lengths(catalogue, numbers, segments, ends)
    _check_constraints(catalogue, spans, constraints, method)
    return spans


def _whole_label(catalogue: Catalogue, variant: int) -> str:
    several = len({source.variant for source in catalogue}) > 1
    return f"variant {variant}" if several else "the catalogue"


def length_counts(catalogue: Catalogue, spans: Sequence[Span]) -> tuple[Integers, Integers]:
    """Distinct lengths of the samples of some spans in ascending order, and how many have each: int64 [D] both."""
    lengths = np.asarray([catalogue[span.source].length for span in spans], np.int64)
    distinct, place = np.unique(lengths, return_inverse=True)
    counts = np.zeros(len(distinct), np.int64)
    np.add.at(counts, place, [span.count for span in spans])
    return distinct, counts


def distinct_lengths(catalogue: Catalogue, variant: int) -> int:
    """Number of different lengths that the sources of a variant have."""
    return len({source.length for source in catalogue if source.variant == variant})


def segments_of(catalogue: Catalogue, numbers: Sequence[int]) -> Segments:
    """Distinct lengths of the sources, with the sample counts of the sources of each length."""
    lengths = sorted({catalogue[number].length for number in numbers})
    counts = [[catalogue[number].count for number in numbers if catalogue[number].length == size] for size in lengths]
    return Segments.from_counts(lengths, counts)


def _by_length(catalogue: Catalogue, variant: int) -> list[int]:
    """Sources of the variant in stable ascending order of length."""
    numbers = [number for number, source in enumerate(catalogue) if source.variant == variant]
    return sorted(numbers, key=lambda number: catalogue[number].length)


def _equal(catalogue: Catalogue, numbers: Sequence[int], buckets: int) -> list[tuple[Span, ...]]:
    """Buckets of equal sample count (numpy.array_split of the sorted samples); a source may be cut in two."""
    total = sum(catalogue[number].count for number in numbers)
    share, rest = divmod(total, buckets)
    if share < 1:
        raise UserError(f"{buckets} buckets for {total} samples", where="buckets", mend=f"use at most {total}")
    spans: list[tuple[Span, ...]] = []
    source, start = 0, 0
    for bucket in range(buckets):
        room = share + (bucket < rest)
        held: list[Span] = []
        while room:
            taken = min(room, catalogue[numbers[source]].count - start)
            held.append(Span(numbers[source], start, taken))
            room, start = room - taken, start + taken
            if start == catalogue[numbers[source]].count:
                source, start = source + 1, 0
        spans.append(tuple(held))
    return spans


def _epoch_costs(segments: Segments, batch_size: BatchSize, cost: Cost) -> RunCosts:
    """Expected cost of an epoch of every run of lengths; infinite where it fills no slice."""
    costs, samples = cost.of(segments.lengths), np.concatenate([[0], np.cumsum(segments.counts)])

    def of_runs_to(end: int) -> Floats:
        size = batch_size.of_runs(segments.lengths[:end], segments.counts[:end])
        starts = np.flatnonzero(size)
        found = np.full(end, np.inf)
        found[starts] = expected_padded_costs(costs[:end], samples[: end + 1], starts, size[starts])
        return found

    return of_runs_to


def _ends(method: str, segments: Segments, buckets: int) -> list[int]:
    """Ends, in distinct lengths, of every bucket: bucket k holds the lengths [ends[k - 1], ends[k])."""
    rule: Callable[[Segments, int], list[int]] = _equal_tokens if method == "equal_tokens" else _quantile
    starts = sorted(set(rule(segments, buckets)) - {0})
    return [*starts, len(segments.lengths)]


def _quantile(segments: Segments, buckets: int) -> list[int]:
    """First length after each of the B - 1 inner quantiles of the sample lengths; equal lengths stay together."""
    cumulative = np.cumsum(segments.counts)
    ranks = [-(-cumulative[-1] * part // buckets) for part in range(1, buckets)]
    starts = [int(np.searchsorted(cumulative, rank)) + 1 for rank in ranks]
    return [start for start in starts if start < len(cumulative)]


def _equal_tokens(segments: Segments, buckets: int) -> list[int]:
    """Lengths at which Lhotse's walk over the sorted samples has gathered more than 1/B of all tokens.

    Facts of lhotse.dataset.sampling.dynamic_bucketing.estimate_duration_buckets: the gathered sum restarts at each
    boundary, and a sample goes to the bucket whose boundaries enclose its length, so equal lengths stay together.
    """
    target = float(segments.lengths @ segments.counts) / buckets
    starts: list[int] = []
    gathered = 0.0
    for place, (length, count) in enumerate(zip(segments.lengths.tolist(), segments.counts.tolist(), strict=True)):
        until_full = 0 if gathered > target else int((target - gathered) // length) + 1
        if until_full >= count:
            gathered += length * count
            continue
        starts.append(place)
        a_bucket = int(target // length) + 1
        gathered = float(length * ((count - until_full - 1) % a_bucket + 1))
    return starts


def _whole_lengths(
    catalogue: Catalogue, numbers: Sequence[int], segments: Segments, ends: Sequence[int]
) -> list[tuple[Span, ...]]:
    bucket_of = {
        int(length): int(np.searchsorted(ends, place, side="right")) for place, length in enumerate(segments.lengths)
    }
    spans: list[list[Span]] = [[] for _ in ends]
    for number in numbers:
        source = catalogue[number]
        spans[bucket_of[source.length]].append(Span(number, 0, source.count))
    return [tuple(held) for held in spans]


def _check_constraints(catalogue: Catalogue, spans: list[tuple[Span, ...]], limits: Constraints, method: str) -> None:
    for number, held in enumerate(spans):
        complaint = limits.complaint(np.asarray([span.count for span in held], np.float64))
        if complaint:
            longest = max(catalogue[span.source].length for span in held)
            raise UserError(
                complaint,
                where=f"bucket {number} (length up to {longest}) of method {method}",
                mend="use fewer buckets or method optimal",
            )
