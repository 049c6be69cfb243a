import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from samplers.batch_size import BatchSize
from samplers.catalogue import Catalogue, Source
from samplers.partition import Span, cut
from samplers.plan import make_plan
from samplers.segmentation import Constraints
from tests.samplers.cases import Group, catalogue_of, catalogues, groups_of_lengths, many_cases, published

# HeterCSI Table III: padding % for the first N sets, 9,000 samples each, 128 a batch.
GLOBAL = {8: 36.46, 16: 32.81, 24: 28.82, 32: 44.06, 40: 58.91}
FOUR_BUCKETS = {8: 4.69, 16: 5.15, 24: 14.61, 32: 19.05, 40: 25.20}
EIGHT_BUCKETS = {8: 0.0, 16: 2.27, 24: 7.69, 32: 8.66, 40: 13.58}
POINT = 0.1

ANY_BATCH = BatchSize(partitions=1, fixed=1)


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
    assert [elements_of(spans) for spans in cut(catalogue, 0, "equal", buckets, ANY_BATCH)] == expected


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
    assert lengths_of(catalogue, cut(catalogue, 0, "equal_tokens", buckets, ANY_BATCH)) == [
        held for held in expected if held
    ]


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
    assert lengths_of(catalogue, cut(catalogue, 0, "quantile", buckets, ANY_BATCH)) == expected


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
        cut(Catalogue([Source("A", 4, 30)]), 0, "equal", 31, ANY_BATCH)


def test_unknown_method() -> None:
    with pytest.raises(UserError, match=r"unknown method 'best'.*equal_tokens"):
        make_plan(published(8), method="best", batch=128)


def elements_of(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    return [(span.source, span.start + place) for span in spans for place in range(span.count)]


def lengths_of(catalogue: Catalogue, buckets: list[tuple[Span, ...]]) -> list[set[int]]:
    return [{catalogue[span.source].length for span in spans} for spans in buckets]
