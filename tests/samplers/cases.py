"""Random small catalogues, plans and schedules, and the published catalogue."""

from collections import Counter

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from channels.presets import load_preset
from samplers.catalogue import Catalogue, Source, catalogue_of_specs, shared_sources
from samplers.choices import METHODS, MIXES, PACKS, SHUFFLES, STRATEGIES, TAILS
from samplers.partition import distinct_lengths
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice

many_cases = settings(max_examples=150)
LARGEST_BATCH = 16

Sample = tuple[str, int]
Group = tuple[int, list[int]]
"""A length, and the samples of each source that has it."""

groups_of_lengths = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=3)),
    min_size=1,
    max_size=7,
    unique_by=lambda group: group[0],
).map(sorted)


def published(sets: int, samples: int = 9000) -> Catalogue:
    """The first pre-training sets of the HeterCSI paper."""
    return catalogue_of_specs(load_preset("hetercsi").pretrain[:sets], samples)


def pooled_sources(name: str, lengths: dict[int, int], count: int, shard_samples: int = 128) -> tuple[Source, ...]:
    """Sources of one set, by variant, whose samples have so many tokens."""
    members = [(name, variant, lengths[variant]) for variant in sorted(lengths)]
    return shared_sources(name, members, count, shard_samples)


@st.composite
def catalogues(draw: st.DrawFn, least: int = 8, most: int = 90) -> Catalogue:
    """One to five sets of one variant, or of pools of two or three variants; ``least`` samples a source at least."""
    variants = draw(st.sampled_from([1, 1, 2, 3]))
    sources: list[Source] = []
    for number in range(draw(st.integers(1, 5))):
        count = draw(st.integers(least * variants, least * variants + most))
        shard_samples = draw(st.sampled_from([1, 3, 4, 6, 16, 128]))
        lengths = {variant: draw(st.integers(1, 12)) for variant in range(variants)}
        if variants == 1:
            sources.append(Source(f"S{number}", lengths[0], count, shard_samples=shard_samples))
        else:
            sources += pooled_sources(f"S{number}", lengths, count, shard_samples)
    return Catalogue(sources)


def catalogue_of(groups: list[Group]) -> Catalogue:
    """A source for each number of samples."""
    return Catalogue(
        [Source(f"S{length}-{place}", length, count) for length, counts in groups for place, count in enumerate(counts)]
    )


@st.composite
def schedules(draw: st.DrawFn, strategies: tuple[str, ...] = STRATEGIES) -> Schedule:
    """Schedules over every strategy, method, mix and kind of tail, with fixed batches or token budgets."""
    partitions = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    strategy = draw(st.sampled_from(strategies))
    fixed = draw(st.booleans())
    catalogue = draw(catalogues(least=3 * LARGEST_BATCH if fixed else 8))
    # Equal counts may cut a set into buckets that are too short for a budget of tokens.
    methods = [method for method in METHODS if fixed or method != "equal"]
    method = draw(st.sampled_from(methods))
    most = max(distinct_lengths(catalogue, source.variant) for source in catalogue)
    each = draw(st.integers(1, LARGEST_BATCH // partitions))
    longest = max(source.length for source in catalogue)
    plan = make_plan(
        catalogue,
        strategy=strategy,
        method=method,
        pack=draw(st.sampled_from(PACKS)),
        buckets=draw(st.integers(1, 3 if method == "equal" else min(3, most))),
        batch=partitions * each if fixed else None,
        batch_tokens=None if fixed else partitions * each * longest,
        partitions=partitions,
    )
    dealt = strategy == "packed" and draw(st.booleans())
    divisors = [count for count in range(1, partitions + 1) if partitions % count == 0]
    return Schedule(
        catalogue,
        plan,
        costs=tuple(source.length**2 + source.length for source in catalogue) if dealt else None,
        within=draw(st.sampled_from(divisors)) if dealt else None,
        seed=draw(st.integers(0, 2**32)),
        partitions=partitions,
        epochs=draw(st.integers(1, 3)),
        slices=draw(st.integers(1, 3)),
        mix=draw(st.sampled_from(MIXES)),
        tails=draw(st.sampled_from(TAILS)) if strategy in ("bucket", "global", "packed") else "fill",
        shuffle=draw(st.sampled_from(SHUFFLES)),
    )


def worlds(schedule: Schedule) -> list[int]:
    """World sizes that divide the partitions."""
    return [world for world in range(1, schedule.partitions + 1) if schedule.partitions % world == 0]


def whole_epoch(schedule: Schedule, epoch: int, rank: int = 0, world: int = 1) -> list[tuple[Slice, ...]]:
    """All steps of an epoch for one rank."""
    return schedule.rank_steps(epoch, 0, schedule.steps(epoch), rank, world)


def true_samples(catalogue: Catalogue, slices: tuple[Slice, ...] | list[Slice]) -> Counter[Sample]:
    """How often each (set, sample) occurs with weight 1."""
    counts: Counter[Sample] = Counter()
    for held in slices:
        true = held.weight > 0
        names = [catalogue[number].name for number in held.source[true]]
        counts.update(zip(names, held.index[true].tolist(), strict=True))
    return counts


def all_samples(catalogue: Catalogue) -> set[Sample]:
    """Every (set, sample) there is."""
    totals: Counter[str] = Counter()
    for source in catalogue:
        totals[source.name] += source.count
    return {(name, number) for name, total in totals.items() for number in range(total)}


def equal_slices(one: Slice, other: Slice) -> bool:
    """Whether two slices hold the same samples in the same order, and the same labels."""
    labels = (one.bucket, one.variant, one.epoch) == (other.bucket, other.variant, other.epoch)
    arrays = zip((one.source, one.index, one.weight), (other.source, other.index, other.weight), strict=True)
    return labels and all(np.array_equal(mine, theirs) for mine, theirs in arrays)


def example(strategy: str, seed: int = 0, samples: int = 60) -> Schedule:
    """Six sets of four lengths; the same on every call."""
    catalogue = Catalogue([Source(f"S{n}", 4 * (1 + n % 4), samples + 7 * n, shard_samples=16) for n in range(6)])
    plan = make_plan(catalogue, strategy=strategy, method="optimal", buckets=3, batch=8, partitions=4)
    return Schedule(catalogue, plan, seed, 4, 3, slices=1)
