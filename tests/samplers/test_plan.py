import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from channels.errors import UserError
from samplers.catalogue import Catalogue, Source
from samplers.choices import STRATEGIES
from samplers.padding import expected_padded_tokens
from samplers.partition import Cost
from samplers.plan import Plan, make_plan
from samplers.schedule import Schedule
from tests.samplers.cases import many_cases, pooled_sources, published, schedules

SETS = Catalogue([Source("A", 4, 30), Source("B", 8, 50), Source("C", 16, 20)])


@many_cases
@given(schedules())
def test_a_plan_holds_every_sample_in_a_bucket_of_its_variant(schedule: Schedule) -> None:
    catalogue = schedule.catalogue
    elements = []
    for bucket in schedule.plan.buckets:
        assert bucket.batch_size > 0
        assert bucket.batch_size % schedule.partitions == 0
        assert bucket.length == max(catalogue[span.source].length for span in bucket.spans)
        assert {catalogue[span.source].variant for span in bucket.spans} == {bucket.variant}
        elements += [(span.source, span.start + place) for span in bucket.spans for place in range(span.count)]
    expected = [(number, place) for number, source in enumerate(catalogue) for place in range(source.count)]
    assert sorted(elements) == expected


@many_cases
@given(schedules())
def test_json_round_trip_keeps_plan_and_fingerprint(schedule: Schedule) -> None:
    plan = schedule.plan
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert plan.describe_difference(again) == ""


@pytest.mark.parametrize("lengths", [[4, 4, 4, 4], [1, 2, 3, 9, 9], [2, 2, 5, 7, 7, 7]])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_expected_padding_is_the_mean_over_all_batches(lengths: list[int], batch: int) -> None:
    full, rest = divmod(len(lengths), batch)
    tokens = full * batch * np.mean([max(drawn) for drawn in combinations(lengths, batch)])
    if rest:
        tokens += rest * np.mean([max(drawn) for drawn in combinations(lengths, rest)])
    distinct, counts = np.unique(lengths, return_counts=True)
    assert expected_padded_tokens(distinct, counts, batch) == pytest.approx(tokens)


def test_strategies_decide_the_buckets() -> None:
    sources = [*pooled_sources("A", {0: 4, 1: 8}, 60), *pooled_sources("B", {0: 6, 1: 2}, 60)]
    counts = {
        strategy: len(make_plan(Catalogue(sources), strategy=strategy, buckets=2, batch=4).buckets)
        for strategy in STRATEGIES
    }
    assert counts == {
        "bucket": 4, "packed": 4, "global": 2, "alternating": 4, "alternating_sets": 4, "sequential": 4
    }  # fmt: skip


@pytest.mark.parametrize(("pack", "like"), [("bucket", "bucket"), ("global", "global")])
def test_packed_plans_have_the_buckets_of_padded_ones_and_no_padding(pack: str, like: str) -> None:
    packed = make_plan(SETS, strategy="packed", pack=pack, method="optimal", buckets=2, batch=4)
    padded = make_plan(SETS, strategy=like, method="optimal", buckets=2, batch=4)
    assert packed.buckets == padded.buckets
    assert (packed.padding, packed.method) == (0.0, padded.method)
    assert padded.padding > 0
    assert packed.fingerprint != padded.fingerprint
    assert Plan.from_json(packed.to_json()).packed


def test_a_token_budget_of_a_packed_plan_is_met_on_average() -> None:
    plan = make_plan(SETS, strategy="packed", pack="global", batch_tokens=128, partitions=2)
    mean = (30 * 4 + 50 * 8 + 20 * 16) / 100
    assert [bucket.batch_size for bucket in plan.buckets] == [int(128 / mean) // 2 * 2]
    squares = Cost.from_flops([(4, 16.0), (8, 64.0), (16, 256.0)])
    plan = make_plan(SETS, strategy="packed", pack="global", batch_flops=1024.0, flops=squares, partitions=2)
    assert plan.buckets[0].batch_size == int(1024 / ((30 * 16 + 50 * 64 + 20 * 256) / 100)) // 2 * 2


def test_a_token_budget_gives_short_samples_larger_batches() -> None:
    plan = make_plan(SETS, strategy="alternating", batch_tokens=128, partitions=4)
    assert [bucket.batch_size for bucket in plan.buckets] == [28, 16, 8]


def test_a_cost_budget_is_spent_on_the_longest_sample_of_each_bucket() -> None:
    squares = Cost.from_flops([(4, 16.0), (8, 64.0), (16, 256.0)])
    plan = make_plan(SETS, strategy="alternating", batch_flops=1024.0, flops=squares, partitions=4)
    assert [(bucket.length, bucket.batch_size) for bucket in plan.buckets] == [(4, 28), (8, 16), (16, 4)]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"batch_flops": 3.0, "partitions": 4, "buckets": 1}, "batch_flops: 3 does not pay"),
        ({"batch": 10, "partitions": 4}, "batch: 10 samples .*multiple of the 4 partitions; use 8 or 12"),
        ({"batch": 2, "partitions": 4}, "batch: 2 samples .*use 4"),
        ({"batch": 0}, "batch: 0 samples"),
        (
            {"batch": 64, "buckets": 2},
            r"bucket 0 \(length up to 8; A, B\): holds 50 samples, fewer than the batch of 64",
        ),
        ({"batch": 32, "strategy": "alternating"}, r"bucket 0 \(length up to 4; A\): holds 30 samples"),
        (
            {"batch_tokens": 63, "partitions": 4, "buckets": 1},
            "batch_tokens: 63 does .*up to 16; .*4 partitions; use at least 64",
        ),
        ({}, "one of batch, batch_tokens and batch_flops"),
        ({"batch": 4, "batch_tokens": 64}, "one of batch, batch_tokens and batch_flops"),
        ({"batch": 4, "strategy": "random"}, "unknown strategy 'random'.*alternating_sets"),
        ({"batch": 4, "strategy": "packed", "pack": "all"}, "unknown pack 'all'; use one of bucket, global"),
        ({"batch_tokens": 30, "strategy": "packed", "pack": "global", "partitions": 4}, "use at least 34"),
        ({"batch": 4, "buckets": 0}, "buckets is 0"),
        ({"batch": 4, "partitions": 0}, "partitions is 0"),
    ],
)
def test_choices_that_cannot_be_met(choices: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_plan(SETS, **{"method": "equal", **choices})  # type: ignore[arg-type]


def test_differences_are_named() -> None:
    plan = make_plan(SETS, method="optimal", buckets=3, batch=4)
    assert plan.describe_difference(make_plan(SETS, strategy="global", batch=4)) == "strategy was bucket, is global"
    fewer = make_plan(SETS, method="optimal", buckets=2, batch=4)
    assert plan.describe_difference(fewer) == "there were 3 buckets, now 2"
    larger = make_plan(SETS, method="optimal", buckets=3, batch=8)
    assert plan.describe_difference(larger) == "bucket 0: batch_size was 4, is 8"
    moved = make_plan(SETS, method="equal", buckets=3, batch=4)
    assert plan.describe_difference(moved) == "bucket 0: length was 4, is 8"


def test_fingerprint_does_not_depend_on_how_the_cut_was_found() -> None:
    optimal = make_plan(published(8), method="optimal", buckets=5, batch=128)
    alternative = make_plan(published(8), method="quantile", buckets=5, batch=128)
    same = optimal.buckets == alternative.buckets
    assert (optimal.fingerprint == alternative.fingerprint) == same


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"schema": 7}, "schema 7, expected 1"),
        ({"buckets": [{}]}, "missing or unknown"),
        ({"strategy": None}, "field 'strategy'"),
    ],
)
def test_plans_of_another_shape_are_refused(damage: dict[str, object], words: str) -> None:
    content = make_plan(SETS, batch=4).to_json()
    content.update(damage)
    if damage.get("strategy", "") is None:
        del content["strategy"]
    with pytest.raises(UserError, match=words):
        Plan.from_json(content)
