"""What a schedule really does: coverage, padding, source entropy and balance over ranks, counted step by step."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplers.catalogue import Catalogue
from samplers.padding import padding_ratio
from samplers.plan import Bucket
from samplers.schedule import Schedule, Slice
from samplers.segmentation import entropy_bits

EXACT_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True)
class Entropy:
    """Source entropy in bits, and as a share of the largest possible one, log2(sets of the catalogue)."""

    bits: float
    normalised: float


@dataclass(frozen=True, slots=True)
class EpochMeasures:
    """Measures of one epoch on a number of ranks.

    padding_ratio: (padded - valid) / padded tokens of true samples, each rank padding a slice to its longest sample;
    0 where samples are packed.
    source_entropy: mean over the slices of all ranks together. coverage: share of the epoch's samples that occur
    (None where steps were only sampled). duplicates: true samples that occurred before. fillers: share of weight-0
    samples. sample_imbalance, token_imbalance: (most - least) / mean over the ranks of true samples and valid tokens.
    steps: steps that were counted. exact: whether these are all steps of the epoch.
    """

    padding_ratio: float
    source_entropy: Entropy
    coverage: float | None
    duplicates: int
    fillers: float
    sample_imbalance: float
    token_imbalance: float
    steps: int
    exact: bool


def measure_epoch(schedule: Schedule, epoch: int, world: int = 1, sampled_steps: int = 256) -> EpochMeasures:
    """Measure an epoch: all steps up to EXACT_SAMPLES samples, else about ``sampled_steps`` evenly spaced ones."""
    schedule.check_world(world)
    steps = schedule.steps(epoch)
    exact = schedule.catalogue.total_samples <= EXACT_SAMPLES or steps <= sampled_steps
    chosen = range(steps) if exact else np.unique(np.linspace(0, steps - 1, sampled_steps).astype(int)).tolist()
    tally = _Tally(schedule.catalogue, schedule.partitions, world, schedule.plan.packed)
    for held in _slices(schedule, epoch, chosen):
        tally.add(held)
    return tally.result(len(chosen), exact)


def _slices(schedule: Schedule, epoch: int, steps: Sequence[int]) -> Iterator[Slice]:
    if len(steps) < schedule.steps(epoch):
        for step in steps:
            yield from schedule.global_step(epoch, step)
        return
    for reached, _, slices in schedule.iterate(epoch, 0, 0, 1):
        if reached > epoch:
            return
        yield from slices


def source_entropy(catalogue: Catalogue, sources: NDArray[np.int32], weight: NDArray[np.float32]) -> Entropy:
    """Entropy of the sets that true samples come from. sources, weight: [n]."""
    return _entropy(catalogue, _per_set(catalogue, sources, weight > 0))


def bucket_entropy(catalogue: Catalogue, bucket: Bucket) -> Entropy:
    """Entropy of the sets a bucket draws from."""
    sources = np.asarray([span.source for span in bucket.spans])
    return _entropy(catalogue, _per_set(catalogue, sources, [span.count for span in bucket.spans]))


def rank_of_samples(total: int, partitions: int, world: int) -> NDArray[np.int64]:
    """Rank that serves each of the samples of a slice of all ranks: int64 [total]."""
    return np.repeat(np.arange(partitions) % world, total // partitions)


@dataclass
class _Tally:
    """Running sums over the slices of an epoch."""

    catalogue: Catalogue
    partitions: int
    world: int
    packed: bool
    valid: float = 0.0
    padded: float = 0.0
    slots: int = 0
    entropies: list[float] = field(default_factory=list)
    seen: list[NDArray[np.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lengths = np.asarray([source.length for source in self.catalogue], np.int64)
        self.bases = _sample_bases(self.catalogue)
        self.sets = _set_numbers(self.catalogue)
        self.rank_samples = np.zeros(self.world)
        self.rank_tokens = np.zeros(self.world)

    def add(self, held: Slice) -> None:
        """Count a slice of all ranks."""
        true = held.weight > 0
        rank = rank_of_samples(len(held.source), self.partitions, self.world)[true]
        length = self.lengths[held.source[true]]
        longest = np.zeros(self.world, np.int64)
        np.maximum.at(longest, rank, length)
        self.valid += float(length.sum())
        self.padded += float(length.sum() if self.packed else longest[rank].sum())
        self.rank_samples += np.bincount(rank, minlength=self.world)
        self.rank_tokens += np.bincount(rank, weights=length, minlength=self.world)
        self.slots += len(true)
        self.seen.append(self.bases[held.source[true]] + held.index[true])
        if true.any():
            counts = np.bincount(self.sets[held.source[true]]).astype(np.float64)
            self.entropies.append(entropy_bits(counts))

    def result(self, steps: int, exact: bool) -> EpochMeasures:
        """The measures of everything counted."""
        seen = np.concatenate(self.seen)
        distinct = len(np.unique(seen))
        bits = float(np.mean(self.entropies))
        return EpochMeasures(
            padding_ratio=padding_ratio(self.valid, self.padded),
            source_entropy=Entropy(bits, _normalised(self.catalogue, bits)),
            coverage=distinct / self.catalogue.total_samples if exact else None,
            duplicates=len(seen) - distinct,
            fillers=1.0 - len(seen) / self.slots,
            sample_imbalance=_imbalance(self.rank_samples),
            token_imbalance=_imbalance(self.rank_tokens),
            steps=steps,
            exact=exact,
        )


def _imbalance(totals: Iterable[float]) -> float:
    values = np.asarray(list(totals))
    return float((values.max() - values.min()) / values.mean())


def _set_numbers(catalogue: Catalogue) -> NDArray[np.int64]:
    """Number of the set of each source, in order of first appearance."""
    numbers = {name: number for number, name in enumerate(catalogue.set_names)}
    return np.asarray([numbers[source.name] for source in catalogue], np.int64)


def _per_set(catalogue: Catalogue, sources: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Sums of weights over the samples of each set."""
    set_of = _set_numbers(catalogue)[np.asarray(sources)]
    return np.bincount(set_of, weights=np.asarray(weight, np.float64)).astype(np.float64)


def _sample_bases(catalogue: Catalogue) -> NDArray[np.int64]:
    """A number for each source such that base + index is unique over sets; sources of one pool share theirs."""
    bases = np.zeros(len(catalogue), np.int64)
    total = 0
    for members in (*catalogue.pools.values(), *((n,) for n, source in enumerate(catalogue) if source.pool is None)):
        bases[list(members)] = total
        total += sum(catalogue[member].count for member in members)
    return bases


def _entropy(catalogue: Catalogue, counts: NDArray[np.float64]) -> Entropy:
    bits = entropy_bits(counts)
    return Entropy(bits, _normalised(catalogue, bits))


def _normalised(catalogue: Catalogue, bits: float) -> float:
    sets = len(catalogue.set_names)
    return bits / float(np.log2(sets)) if sets > 1 else 0.0
