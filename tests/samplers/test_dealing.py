"""Packed slices dealt by cost: the same samples, equally many each, and no partition far above the mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers.catalogue import Catalogue, Source
from samplers.dealing import COST_BITS, MOST_SAMPLES, Dealer, deal, whole_costs
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice
from tests.samplers.cases import many_cases, published, schedules, true_samples, whole_epoch

LENGTHS = np.asarray([96, 128, 192, 256, 384, 512, 768], np.int64)


def loads(costs: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    """Cost of every partition [rows, partitions]."""
    return np.take_along_axis(costs, dealt.reshape(len(costs), -1), axis=1).reshape(dealt.shape).sum(axis=2)


def dealt_schedule(partitions: int, share: int, *, dealt: bool = True, sets: int = 40) -> Schedule:
    """Slices of all of the published sets together."""
    catalogue = published(sets, samples=400)
    plan = make_plan(catalogue, strategy="packed", pack="global", batch=partitions * share, partitions=partitions)
    costs = tuple(cost(source.length) for source in catalogue)
    return Schedule(catalogue, plan, 1, partitions, 1, costs=costs if dealt else None)


def cost(length: int) -> int:
    return length**2 + 1000 * length


def per_partition(schedule: Schedule, held: Slice) -> np.ndarray:
    costs = np.asarray([cost(source.length) for source in schedule.catalogue])
    return (costs[held.source] * held.weight).reshape(schedule.partitions, -1).sum(axis=1)


@many_cases
@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 2**COST_BITS), min_size=1, max_size=5), st.data())
def test_every_sample_is_dealt_once_and_never_to_a_dearer_partition(
    partitions: int, share: int, kinds: list[int], data: st.DataObject
) -> None:
    row = st.lists(st.sampled_from(kinds), min_size=partitions * share, max_size=partitions * share)
    costs = np.asarray(data.draw(st.lists(row, min_size=1, max_size=3)), np.int64)
    dealt = deal(costs, partitions)
    assert dealt.shape == (len(costs), partitions, share)
    assert (np.sort(dealt.reshape(len(costs), -1), axis=1) == np.arange(partitions * share)).all()
    assert (np.diff(dealt, axis=2) > 0).all()
    before = costs.reshape(dealt.shape).sum(axis=2).max(axis=1)
    after = loads(costs, dealt).max(axis=1)
    assert (after <= before).all()
    rest = np.arange(partitions * share).reshape(partitions, share)
    assert all((columns == rest).all() for columns in dealt[after == before])
    # A slice is dealt the same alone.
    assert all((deal(costs[number : number + 1], partitions)[0] == dealt[number]).all() for number in range(len(costs)))


@many_cases
@given(st.lists(st.integers(1, 12).map(lambda length: length**2), min_size=4, max_size=64), st.integers(2, 6))
def test_partitions_differ_by_no_more_than_the_samples_of_a_round(drawn: list[int], partitions: int) -> None:
    """Every round narrows the loads to the range of its costs, if they were further apart; swaps only narrow them."""
    costs = np.asarray([drawn[: len(drawn) // partitions * partitions]], np.int64)
    if costs.size:
        found = loads(costs, deal(costs, partitions))[0]
        drawn_loads = costs.reshape(partitions, -1).sum(axis=1)
        rounds = -np.sort(-costs[0]).reshape(-1, partitions)
        spread = int((rounds[:, 0] - rounds[:, -1]).max())
        assert found.max() - found.mean() <= min(spread, drawn_loads.max() - found.mean())


@pytest.mark.parametrize("partitions", [8, 64])
def test_random_mixtures_leave_two_percent(partitions: int) -> None:
    generator = np.random.default_rng(partitions)
    for _ in range(50):
        shares = generator.uniform(0.05, 1, len(LENGTHS))
        lengths = generator.choice(LENGTHS, size=(1, partitions * 16), p=shares / shares.sum())
        costs = lengths**2 + 1000 * lengths
        found = loads(costs, deal(costs, partitions))[0]
        assert found.max() <= 1.02 * found.mean()


@many_cases
@given(schedules(("packed",)))
def test_dealing_changes_no_global_batch(schedule: Schedule) -> None:
    drawn = Schedule(
        schedule.catalogue, schedule.plan, schedule.seed, schedule.partitions, schedule.epochs, schedule.slices,
        schedule.mix, schedule.tails, schedule.shuffle,
    )  # fmt: skip
    assert drawn.settings() == schedule.settings()
    for before, after in zip(whole_epoch(drawn, 0), whole_epoch(schedule, 0), strict=True):
        for one, other in zip(before, after, strict=True):
            assert true_samples(schedule.catalogue, [one]) == true_samples(schedule.catalogue, [other])
            assert (one.bucket, one.variant, one.epoch) == (other.bucket, other.variant, other.epoch)


@pytest.mark.parametrize(("partitions", "share", "most"), [(8, 16, 1.02), (64, 16, 1.02), (64, 128, 1.04)])
def test_partitions_of_published_mixtures_compute_alike(partitions: int, share: int, most: float) -> None:
    schedule = dealt_schedule(partitions, share)
    undealt = dealt_schedule(partitions, share, dealt=False)
    for step in range(min(schedule.steps(0) - 1, 5)):
        [held], [drawn] = schedule.global_step(0, step), undealt.global_step(0, step)
        after, before = per_partition(schedule, held), per_partition(undealt, drawn)
        assert after.max() <= most * after.mean() and after.max() < before.max()
    assert MOST_SAMPLES < 64 * 128, "the last case is dealt in several blocks"


def test_what_a_rank_looks_at_does_not_grow_with_the_ranks() -> None:
    dealer = Dealer(np.ones(1, np.int64), 1024)
    for share in (1, 2, 16, 30, 128, 4096):
        members = dealer.members(share, np.asarray([700]))
        assert 700 in members and len(members) * share <= max(MOST_SAMPLES, share)
        assert 1024 % len(members) == 0 and members[0] % len(members) == 0
        assert (dealer.members(share, np.arange(1024)) == np.arange(1024)).all()
    assert Dealer(np.ones(1, np.int64), 6).neighbours(1) == 6
    assert Dealer(np.ones(1, np.int64), 7).neighbours(1000) == 1


def test_samples_of_one_cost_and_padded_batches_stay_where_they_were_drawn() -> None:
    catalogue = Catalogue([Source("A", 8, 300), Source("B", 8, 100)])
    for strategy in ("packed", "global"):
        plan = make_plan(catalogue, strategy=strategy, pack="bucket", method="equal", buckets=1, batch=16, partitions=4)
        costs = (5, 5) if strategy == "packed" else (1, 9)
        drawn, dealt = (Schedule(catalogue, plan, 0, 4, 1, costs=given) for given in (None, costs))
        for before, after in zip(whole_epoch(drawn, 0), whole_epoch(dealt, 0), strict=True):
            assert (before[0].index == after[0].index).all() and (before[0].source == after[0].source).all()


def test_partitions_exchange_samples_within_their_block_only() -> None:
    catalogue = published(8, 100)
    plan = make_plan(catalogue, strategy="packed", pack="global", batch=32, partitions=4)
    costs = tuple(source.length for source in catalogue)
    drawn, dealt = (Schedule(catalogue, plan, 0, 4, 1, costs=costs, within=within) for within in (1, 2))
    exchanged = 0
    for step in range(drawn.steps(0)):
        ranks = [[true_samples(catalogue, s.rank_step(0, step, rank, 4)) for rank in range(4)] for s in (drawn, dealt)]
        exchanged += ranks[0] != ranks[1]
        for first in (0, 2):
            assert ranks[0][first] + ranks[0][first + 1] == ranks[1][first] + ranks[1][first + 1]
    assert exchanged


def test_costs_become_whole_numbers_of_the_same_ratios() -> None:
    assert whole_costs([3.0, 0.0, 0.25]) == (3, 0, 1)
    large = whole_costs([2.0**70, 2.0**69, 1.0])
    assert large == (2**COST_BITS, 2 ** (COST_BITS - 1), 1)
