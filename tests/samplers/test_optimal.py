"""Method ``optimal`` against trying every cut, with the cost of a bucket in exact fractions."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from samplers.batch_size import BatchSize, Cost
from samplers.catalogue import Catalogue, Source
from samplers.padding import expected_padded_costs, expected_padded_tokens
from samplers.partition import cut, length_counts
from samplers.plan import make_plan
from samplers.segmentation import Constraints, entropy_bits
from tests.samplers.cases import Group, catalogue_of, groups_of_lengths, many_cases, pooled_sources

LIMITS = st.builds(Constraints, st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0, 1.8]))


@st.composite
def batch_sizes(draw: st.DrawFn) -> BatchSize:
    """Fixed numbers and budgets of tokens, also such that are too large for some buckets or for all."""
    partitions = draw(st.integers(1, 4))
    if draw(st.booleans()):
        return BatchSize(partitions, fixed=partitions * draw(st.integers(1, 20)))
    return BatchSize(partitions, budget=draw(st.integers(1, 900)), packed=draw(st.booleans()), field="batch_tokens")


def expected_largest(costs: Sequence[Fraction], counts: Sequence[int], drawn: int) -> Fraction:
    """Mean over all ways to draw so many samples; costs ascending."""
    below = np.cumsum([0, *counts]).tolist()
    ways = comb(below[-1], drawn)
    shares = [Fraction(comb(high, drawn) - comb(low, drawn), ways) for low, high in pairwise(below)]
    return sum((cost * share for cost, share in zip(costs, shares, strict=True)), Fraction(0))


def epoch_cost(costs: Sequence[Fraction], counts: Sequence[int], batch: int) -> Fraction:
    """What a bucket costs in an epoch: its full batches, and the last one with the samples that remain."""
    full, rest = divmod(sum(counts), batch)
    cost = full * batch * expected_largest(costs, counts, batch) if full else Fraction(0)
    return cost + rest * expected_largest(costs, counts, rest)


def slice_samples(groups: Sequence[Group], rule: BatchSize) -> int:
    """Samples of a slice of a bucket of these lengths; 0 where there is none."""
    samples = sum(sum(counts) for _, counts in groups)
    if rule.fixed is not None:
        return rule.fixed if samples >= rule.fixed else 0
    price = Fraction(groups[-1][0])
    if rule.packed:
        price = Fraction(sum(length * sum(counts) for length, counts in groups), samples)
    return min(int(rule.budget / price), samples) // rule.partitions * rule.partitions


def cost_of_bucket(groups: Sequence[Group], rule: BatchSize, cost: Cost, limits: Constraints) -> Fraction | None:
    """Expected cost of an epoch of one bucket, or None where it is not allowed."""
    sources = [count for _, counts in groups for count in counts]
    bits = float(entropy_bits(np.asarray(sources, float)))
    batch = slice_samples(groups, rule)
    if not batch or len(sources) < limits.min_sources or bits < limits.min_entropy - 1e-9:
        return None
    costs = [Fraction(float(value)) for value in cost.of(np.asarray([length for length, _ in groups]))]
    return epoch_cost(costs, [sum(counts) for _, counts in groups], batch)


def all_cuts(groups: Sequence[Group], buckets: int) -> list[list[Sequence[Group]]]:
    size = len(groups)
    ends = [[*inner, size] for count in range(min(buckets, size)) for inner in combinations(range(1, size), count)]
    return [[groups[start:end] for start, end in zip([0, *cut[:-1]], cut, strict=True)] for cut in ends]


def cheapest(
    groups: Sequence[Group], buckets: int, rule: BatchSize, cost: Cost, limits: Constraints
) -> Fraction | None:
    """Cost of the best of all cuts, or None where none is allowed."""
    found = []
    for parts in all_cuts(groups, buckets):
        costs = [cost_of_bucket(part, rule, cost, limits) for part in parts]
        if None not in costs:
            found.append(sum((value for value in costs if value is not None), Fraction(0)))
    return min(found, default=None)


@many_cases
@given(groups_of_lengths, st.integers(1, 7), batch_sizes(), LIMITS, st.integers(0, 2))
def test_optimal_is_as_good_as_trying_everything_and_finds_what_is_feasible(
    groups: list[Group], buckets: int, rule: BatchSize, limits: Constraints, kind: int
) -> None:
    lengths = [length for length, _ in groups]
    cost = [
        Cost(),
        Cost.from_flops((length, 3.0 * length + 0.2 * length**2) for length in lengths),
        Cost.from_flops((length, length**0.5) for length in lengths),
    ][kind]
    catalogue = catalogue_of(groups)
    best = cheapest(groups, buckets, rule, cost, limits)
    if best is None:
        with pytest.raises(UserError):
            cut(catalogue, 0, "optimal", buckets, rule, cost, limits)
        return
    spans = cut(catalogue, 0, "optimal", buckets, rule, cost, limits)
    assert len(spans) <= buckets
    of_length = dict(groups)
    parts = [[(length, of_length[length]) for length in length_counts(catalogue, held)[0].tolist()] for held in spans]
    costs = [cost_of_bucket(part, rule, cost, limits) for part in parts]
    assert None not in costs
    assert float(sum(value for value in costs if value is not None)) == pytest.approx(float(best), rel=1e-9)


def test_a_batch_is_padded_to_its_own_longest_and_not_to_that_of_the_bucket() -> None:
    """Few batches of 8 hold one of the 100 samples of 168 tokens: they cost less beside 82 than 82 does beside 4."""
    catalogue = Catalogue([Source("A", 4, 9000), Source("B", 82, 9000), Source("C", 168, 100)])
    plan = make_plan(catalogue, method="optimal", buckets=2, batch=8)
    assert [bucket.length for bucket in plan.buckets] == [4, 168]
    assert plan.padding == pytest.approx(0.068, abs=0.0005)


def test_buckets_that_fill_no_batch_are_joined_to_others() -> None:
    catalogue = Catalogue([Source("A", 4, 100), Source("B", 8, 30), Source("C", 64, 70)])
    plan = make_plan(catalogue, method="optimal", buckets=3, batch=64)
    assert [(bucket.length, bucket.samples) for bucket in plan.buckets] == [(8, 130), (64, 70)]


def test_a_variant_that_fills_no_batch_is_refused_in_one_line() -> None:
    catalogue = Catalogue([*pooled_sources("A", {0: 4, 1: 8}, 127), *pooled_sources("B", {0: 6, 1: 9}, 127)])
    with pytest.raises(UserError, match="variant 1: holds 126 samples, fewer than the batch of 128") as error:
        make_plan(catalogue, method="optimal", buckets=2, batch=128)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"batch_tokens: 35 does not pay .*variant 1 .*4 partitions; .* 36"):
        make_plan(catalogue, method="optimal", buckets=2, batch_tokens=35, partitions=4)


def test_of_equal_cuts_the_one_with_fewest_buckets_is_taken() -> None:
    """Batches of one sample have no padding, so every cut costs the same."""
    assert len(make_plan(catalogue_of([(4, [5]), (8, [5])]), method="optimal", buckets=2, batch=1).buckets) == 1


def test_of_equal_cuts_every_machine_takes_the_same() -> None:
    """1 | 2, 3 and 1, 2 | 3 cost the same; rounding must not choose."""
    for count in range(20, 60):
        catalogue = catalogue_of([(1, [count]), (2, [count]), (3, [count])])
        plan = make_plan(catalogue, method="optimal", buckets=2, batch=4)
        assert [bucket.length for bucket in plan.buckets] == [1, 3]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("batch", [1, 7, 128, 1000])
def test_expected_costs_are_exact_for_few_and_for_a_billion_samples(scale: int, batch: int) -> None:
    lengths, counts = np.asarray([3, 10, 11, 50]), np.asarray([400, 350, 251, 9]) * scale
    expected = epoch_cost([Fraction(length) for length in lengths.tolist()], counts.tolist(), batch)
    assert expected_padded_tokens(lengths, counts, batch) == pytest.approx(float(expected), rel=1e-11)


def test_many_buckets_are_priced_at_once() -> None:
    costs, counts = np.asarray([3.0, 10.0, 11.0, 50.0]), [40, 35, 25, 9]
    found = expected_padded_costs(costs, np.cumsum([0, *counts]), np.arange(4), np.asarray([16, 8, 4, 9]))
    exact = [
        float(epoch_cost([Fraction(cost) for cost in costs[start:].tolist()], counts[start:], batch))
        for start, batch in enumerate([16, 8, 4, 9])
    ]
    assert found == pytest.approx(exact, rel=1e-11)
