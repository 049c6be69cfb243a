from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from samplers.catalogue import Catalogue, Source
from samplers.partition import Cost, Span, cut
from samplers.plan import make_plan
from samplers.segmentation import Constraints, Segments, best_cut, entropy_bits
from tests.samplers.cases import catalogues, many_cases, published

# HeterCSI Table III: padding % for the first N sets, 9,000 samples each, 128 a batch.
GLOBAL = {8: 36.46, 16: 32.81, 24: 28.82, 32: 44.06, 40: 58.91}
FOUR_BUCKETS = {8: 4.69, 16: 5.15, 24: 14.61, 32: 19.05, 40: 25.20}
EIGHT_BUCKETS = {8: 0.0, 16: 2.27, 24: 7.69, 32: 8.66, 40: 13.58}
POINT = 0.1

Group = tuple[int, list[int]]
groups_of_lengths = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=3)),
    min_size=1,
    max_size=7,
    unique_by=lambda group: group[0],
).map(sorted)


@pytest.mark.parametrize("sets", [8, 16, 24, 32, 40])
def test_padding_is_that_of_table_three(sets: int) -> None:
    catalogue = published(sets)
    everything = make_plan(catalogue, strategy="global", batch=128)
    assert 100 * everything.padding == pytest.approx(GLOBAL[sets], abs=POINT)
    for buckets, column in ((4, FOUR_BUCKETS), (8, EIGHT_BUCKETS)):
        equal = make_plan(catalogue, method="equal", buckets=buckets, batch=128)
        assert 100 * equal.padding == pytest.approx(column[sets], abs=POINT)
    for strategy in ("sequential", "alternating", "alternating_sets"):
        assert make_plan(catalogue, strategy=strategy, batch=128).padding == 0.0


@pytest.mark.parametrize(
    ("buckets", "min_sources", "padding"),
    [(4, 1, 4.66), (4, 2, 7.38), (4, 4, 7.38), (5, 2, 6.04), (3, 4, 9.95), (7, 1, 0)],
)
def test_the_exact_optimum_of_the_published_sets(buckets: int, min_sources: int, padding: float) -> None:
    plan = make_plan(published(40), method="optimal", buckets=buckets, batch=128, constraints=Constraints(min_sources))
    assert 100 * plan.padding == pytest.approx(padding, abs=0.005)
    assert all(len(bucket.spans) >= min_sources for bucket in plan.buckets)


@many_cases
@given(catalogues(), st.integers(1, 6))
def test_equal_is_array_split_of_the_sorted_samples(catalogue: Catalogue, buckets: int) -> None:
    numbers = sorted(
        (number for number, source in enumerate(catalogue) if source.variant == 0),
        key=lambda number: catalogue[number].length,
    )
    samples = [(number, element) for number in numbers for element in range(catalogue[number].count)]
    expected = [[tuple(row) for row in part] for part in np.array_split(np.asarray(samples), buckets)]
    assert [elements_of(spans) for spans in cut(catalogue, 0, "equal", buckets)] == expected


@many_cases
@given(groups_of_lengths, st.integers(1, 6))
def test_equal_tokens_is_the_estimate_of_lhotse(groups: list[Group], buckets: int) -> None:
    catalogue = catalogue_of(groups)
    lengths = np.repeat([length for length, _ in groups], [sum(counts) for _, counts in groups])
    bins: list[int] = []
    gathered, target = 0.0, lengths.sum() / min(buckets, len(groups))
    for length in lengths.tolist():
        if gathered > target:
            bins.append(length)
            gathered = 0.0
        gathered += length
    expected = [set(lengths[np.digitize(lengths, bins) == place].tolist()) for place in range(len(bins) + 1)]
    assert lengths_of(catalogue, cut(catalogue, 0, "equal_tokens", buckets)) == [held for held in expected if held]


@many_cases
@given(groups_of_lengths, st.integers(1, 6))
def test_quantile_boundaries_are_quantiles_of_the_samples(groups: list[Group], buckets: int) -> None:
    catalogue = catalogue_of(groups)
    lengths = np.repeat([length for length, _ in groups], [sum(counts) for _, counts in groups])
    quantiles = np.quantile(
        lengths, np.arange(1, min(buckets, len(groups))) / min(buckets, len(groups)), method="inverted_cdf"
    )
    place = np.searchsorted(quantiles, lengths, side="left")
    expected = [set(lengths[place == number].tolist()) for number in np.unique(place)]
    assert lengths_of(catalogue, cut(catalogue, 0, "quantile", buckets)) == expected


@many_cases
@given(
    groups_of_lengths, st.integers(1, 7), st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0, 1.8]), st.integers(0, 2)
)
def test_optimal_is_as_good_as_trying_everything(
    groups: list[Group], buckets: int, min_sources: int, min_entropy: float, kind: int
) -> None:
    lengths = [length for length, _ in groups]
    cost = [
        Cost(),
        Cost.from_flops((length, 3.0 * length + 0.2 * length**2) for length in lengths),
        Cost.from_flops((length, length**0.5) for length in lengths),
    ][kind]
    prices = cost.of(np.asarray(lengths, np.int64))
    limits = Constraints(min_sources, min_entropy)
    segments = Segments.from_counts(lengths, [counts for _, counts in groups])
    best = cheapest_by_trying(groups, prices, buckets, limits)
    if best is None:
        with pytest.raises(UserError, match="feasible with"):
            best_cut(segments, prices, buckets, limits)
        return
    ends = best_cut(segments, prices, buckets, limits)
    assert len(ends) <= buckets
    assert price_of(groups, prices, ends, limits) == pytest.approx(best)


def test_of_equal_cuts_the_one_with_fewest_buckets_is_taken() -> None:
    segments = Segments.from_counts([4, 8], [[5], [5]])
    assert best_cut(segments, np.asarray([1.0, 1.0]), 2, Constraints()) == [2]


def test_infeasible_constraints_say_what_is_feasible() -> None:
    with pytest.raises(UserError, match=r"min_sources 41 .*1 bucket: up to 40 sets.*2 buckets: up to 16 sets"):
        make_plan(published(40), method="optimal", buckets=4, batch=128, constraints=Constraints(41))
    with pytest.raises(UserError, match=r"min_entropy 6 bits .*1 bucket: up to 40 sets or 5\.322 bits"):
        make_plan(published(40), method="optimal", buckets=2, batch=128, constraints=Constraints(1, 6.0))


def test_other_methods_are_held_to_the_constraints_too() -> None:
    with pytest.raises(UserError, match=r"bucket 0 .*method equal: holds 5 sets, fewer than min_sources 6"):
        make_plan(published(40), method="equal", buckets=8, batch=128, constraints=Constraints(6))
    with pytest.raises(UserError, match=r"bucket 3 .*quantile: has source entropy 2\.000 bits"):
        make_plan(published(40), method="quantile", buckets=7, batch=128, constraints=Constraints(1, 2.5))


def test_more_buckets_than_lengths_is_refused_but_equal_may_cut_within_a_length() -> None:
    with pytest.raises(UserError, match="8 buckets for 7 distinct lengths; use at most 7"):
        make_plan(published(40), method="optimal", buckets=8, batch=128)
    assert len(make_plan(published(40), method="equal", buckets=8, batch=128).buckets) == 8
    with pytest.raises(UserError, match="31 buckets for 30 samples"):
        cut(Catalogue([Source("A", 4, 30)]), 0, "equal", 31)


def test_the_cost_of_a_length_is_that_of_its_most_expensive_sample_and_never_falls() -> None:
    cost = Cost.from_flops([(8, 7.0), (2, 3.0), (4, 1.0), (2, 2.0)])
    assert cost.of(np.asarray([2, 4, 8, 2])).tolist() == [3.0, 3.0, 7.0, 3.0]
    assert Cost().of(np.asarray([2, 4])).tolist() == [2.0, 4.0]


def test_unknown_method() -> None:
    with pytest.raises(UserError, match=r"unknown method 'best'.*equal_tokens"):
        make_plan(published(8), method="best", batch=128)


def elements_of(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    return [(span.source, span.start + place) for span in spans for place in range(span.count)]


def catalogue_of(groups: list[Group]) -> Catalogue:
    return Catalogue(
        [Source(f"S{length}-{place}", length, count) for length, counts in groups for place, count in enumerate(counts)]
    )


def lengths_of(catalogue: Catalogue, buckets: list[tuple[Span, ...]]) -> list[set[int]]:
    return [{catalogue[span.source].length for span in spans} for spans in buckets]


def price_of(groups: list[Group], prices: np.ndarray, ends: list[int], limits: Constraints) -> float | None:
    """Price of a cut, or None where it breaks a constraint; straight from the definitions."""
    total = 0.0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        counts = [count for _, group in groups[start:end] for count in group]
        if len(counts) < limits.min_sources or entropy_bits(np.asarray(counts, float)) < limits.min_entropy - 1e-9:
            return None
        total += sum(counts) * float(prices[end - 1])
    return total


def cheapest_by_trying(groups: list[Group], prices: np.ndarray, buckets: int, limits: Constraints) -> float | None:
    size = len(groups)
    cuts = [[*inner, size] for count in range(min(buckets, size)) for inner in combinations(range(1, size), count)]
    found = [price for price in (price_of(groups, prices, ends, limits) for ends in cuts) if price is not None]
    return min(found) if found else None
