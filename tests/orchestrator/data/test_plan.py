"""From the batching section of a job to its plan and schedule."""

import pytest

from channels.errors import UserError
from orchestrator.data.plan import make_schedule
from orchestrator.spec.job import JobSpec
from samplers.catalogue import Catalogue, Source
from samplers.schedule import Schedule

SETS = Catalogue([Source("A", 4, 900), Source("B", 8, 900), Source("C", 10, 900)])
CUBES = [float(source.length**3) for source in SETS]


def schedule_of(**batching: object) -> Schedule:
    job = JobSpec.model_validate({"name": "job", "data": {"store": "store"}, "batching": {"buckets": 2, **batching}})
    return make_schedule(job, SETS, CUBES)


def lengths_of(schedule: Schedule) -> list[int]:
    return [bucket.length for bucket in schedule.plan.buckets]


def test_a_step_of_several_slices_has_the_global_batch() -> None:
    schedule = schedule_of(global_batch=64, slices=2)
    assert {bucket.batch_size for bucket in schedule.plan.buckets} == {32}
    assert sum(len(held.index) for held in schedule.global_step(0, 0)) == 64


def test_boundaries_follow_the_cost() -> None:
    # 900 samples of 4 cost 3,600 tokens more beside those of 8; 900 of 8 cost 1,800 more beside those of 10. In cubes
    # it is 448 a sample against 488.
    assert lengths_of(schedule_of(cost="tokens")) == [4, 10]
    assert lengths_of(schedule_of(cost="flops")) == [8, 10]


def test_a_budget_of_operations_decides_the_batch_of_each_bucket() -> None:
    schedule = schedule_of(buckets=3, batch_flops=64_000.0)
    assert [bucket.batch_size for bucket in schedule.plan.buckets] == [900 // 8 * 8, 120, 64]


def test_micro_batches_are_one_number_or_one_a_bucket() -> None:
    assert len(schedule_of(micro_batch=[64, 32]).plan.buckets) == 2
    with pytest.raises(UserError, match=r"batching\.micro_batch: 3 micro-batches for 2 buckets"):
        schedule_of(micro_batch=[64, 32, 16])


def test_a_budget_of_operations_leaves_the_boundaries_to_the_cost() -> None:
    assert lengths_of(schedule_of(cost="tokens", batch_flops=64_000.0)) == [4, 10]
    assert lengths_of(schedule_of(cost="flops", batch_flops=64_000.0)) == [8, 10]


def test_packed_samples_are_dealt_by_the_operations_of_the_model() -> None:
    assert schedule_of(strategy="packed").costs == tuple(map(int, CUBES))
    assert schedule_of(strategy="packed", balance="count").costs is None


def test_single_samples_are_shuffled_where_all_nodes_see_all_shards() -> None:
    assert schedule_of(shuffle="sample").shuffle == "sample"
    data = {"store": "store", "placement": "partition", "cache_gb": 1.0}
    with pytest.raises(ValueError, match=r"use data\.placement shared"):
        JobSpec.model_validate({"name": "job", "data": data, "batching": {"shuffle": "sample"}})
