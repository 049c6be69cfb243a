import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers.assignment import Assignment
from samplers.catalogue import Catalogue, Source
from samplers.choices import STRATEGIES
from samplers.permutation import Keys
from samplers.plan import make_plan
from samplers.pools import SourceTable
from samplers.schedule import Schedule, Slice
from tests.samplers.cases import (
    all_samples,
    equal_slices,
    example,
    many_cases,
    pooled_sources,
    schedules,
    true_samples,
    whole_epoch,
    worlds,
)

IN_ONE_PHASE = ("bucket", "global", "alternating")


@many_cases
@given(schedules(tuple(strategy for strategy in STRATEGIES if strategy != "sequential")))
def test_every_sample_has_weight_one_exactly_once_an_epoch(schedule: Schedule) -> None:
    for epoch in range(schedule.epochs):
        slices = [held for step in whole_epoch(schedule, epoch) for held in step]
        counts = true_samples(schedule.catalogue, slices)
        assert set(counts) == all_samples(schedule.catalogue)
        assert set(counts.values()) == {1}
        assert {held.epoch for held in slices} == {epoch}


@many_cases
@given(schedules(("sequential",)))
def test_sequential_passes_over_each_set_once_for_every_epoch_of_the_run(schedule: Schedule) -> None:
    counts: Counter[tuple[tuple[str, int], int]] = Counter()
    order: list[tuple[str, int]] = []
    for epoch in range(schedule.epochs):
        for held in (held for step in whole_epoch(schedule, epoch) for held in step):
            samples = true_samples(schedule.catalogue, [held])
            counts.update({(sample, held.epoch): times for sample, times in samples.items()})
            order.append((schedule.catalogue[int(held.source[0])].name, held.epoch))
    expected = {(sample, number) for sample in all_samples(schedule.catalogue) for number in range(schedule.epochs)}
    assert set(counts) == expected
    assert set(counts.values()) == {1}
    passes = [(name, number) for name in schedule.catalogue.set_names for number in range(schedule.epochs)]
    assert list(dict.fromkeys(order)) == passes


@many_cases
@given(schedules(), st.data())
def test_all_ranks_hold_the_same_bucket_and_equally_many_samples(schedule: Schedule, data: st.DataObject) -> None:
    world = data.draw(st.sampled_from(worlds(schedule)))
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    ranks = [whole_epoch(schedule, epoch, rank, world) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {schedule.steps(epoch)}
    for step in zip(*ranks, strict=True):
        assert {len(slices) for slices in step} == {schedule.slices}
        for slices in zip(*step, strict=True):
            bucket = schedule.plan.buckets[slices[0].bucket]
            assert {(held.bucket, held.variant, held.epoch) for held in slices} == {
                (slices[0].bucket, bucket.variant, slices[0].epoch)
            }
            assert {len(held.index) for held in slices} == {bucket.batch_size // world}


@many_cases
@given(schedules(), st.data())
def test_the_global_batch_does_not_depend_on_the_world_size(schedule: Schedule, data: st.DataObject) -> None:
    world = data.draw(st.sampled_from(worlds(schedule)))
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    step = data.draw(st.integers(0, schedule.steps(epoch) - 1))
    ranks = [schedule.rank_step(epoch, step, rank, world) for rank in range(world)]
    for whole, *of_ranks in zip(schedule.global_step(epoch, step), *ranks, strict=True):
        share = len(whole.index) // schedule.partitions
        for partition in range(schedule.partitions):
            place = slice(partition * share, (partition + 1) * share)
            turn = slice(partition // world * share, (partition // world + 1) * share)
            mine = of_ranks[partition % world]
            for field in ("source", "index", "weight"):
                assert np.array_equal(getattr(whole, field)[place], getattr(mine, field)[turn])


@many_cases
@given(schedules(), st.data())
def test_any_step_is_the_same_alone_and_in_order(schedule: Schedule, data: st.DataObject) -> None:
    world = data.draw(st.sampled_from(worlds(schedule)))
    rank = data.draw(st.integers(0, world - 1))
    walked = {(epoch, step): slices for epoch, step, slices in schedule.iterate(0, 0, rank, world)}
    assert len(walked) == schedule.total_steps
    assert list(walked) == [(e, s) for e in range(schedule.epochs) for s in range(schedule.steps(e))]
    epoch, step = data.draw(st.sampled_from(list(walked)))
    alone = schedule.rank_step(epoch, step, rank, world)
    assert all(map(equal_slices, alone, walked[epoch, step]))


@many_cases
@given(schedules())
def test_slices_hold_samples_of_their_bucket_and_fillers_are_few(schedule: Schedule) -> None:
    catalogue, buckets = schedule.catalogue, schedule.plan.buckets
    slices = [held for step in whole_epoch(schedule, 0) for held in step]
    sources = [{span.source for span in bucket.spans} for bucket in buckets]
    for held in slices:
        bucket = buckets[held.bucket]
        assert {catalogue[number].variant for number in held.source} == {bucket.variant}
        assert max(catalogue[number].length for number in held.source) <= bucket.length
        assert set(held.weight.tolist()) <= {0.0, 1.0}
        assert schedule.tails == "mixed" or set(held.source.tolist()) <= sources[held.bucket]
        assert all(
            0 <= index < pool_size(catalogue, number) for number, index in zip(held.source, held.index, strict=True)
        )
    if schedule.slices == 1 and schedule.plan.strategy != "sequential":
        fillers = sum(int((held.weight == 0).sum()) for held in slices)
        assert schedule.scheduled_samples == catalogue.total_samples + fillers
        tails = {bucket.variant: bucket.batch_size for bucket in buckets} if schedule.tails == "mixed" else {}
        assert fillers == sum(
            -total % batch for total, batch in (remainders(buckets, tails) if tails else per_bucket(buckets))
        )


@many_cases
@given(schedules())
def test_every_sample_weighs_the_same_in_an_epoch(schedule: Schedule) -> None:
    """The loss of a step is the mean over its samples: a step with few of them counts for less."""
    for step in whole_epoch(schedule, 0):
        true = sum(int((held.weight > 0).sum()) for held in step)
        assert schedule.step_weight(step) / true == pytest.approx(1 / schedule.nominal_samples)
        if len({bucket.batch_size for bucket in schedule.plan.buckets}) == 1:
            slots = sum(len(held.weight) for held in step)
            assert schedule.step_weight(step) == pytest.approx(true / slots)
            assert (schedule.step_weight(step) == 1.0) == (true == slots)


@many_cases
@given(schedules(), st.data())
def test_mix_none_keeps_one_bucket_a_step(schedule: Schedule, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    for slices in whole_epoch(schedule, epoch):
        if schedule.mix == "none":
            assert len({held.bucket for held in slices}) == 1


@many_cases
@given(schedules(), st.data())
def test_shards_of_a_partition_are_those_its_steps_read(schedule: Schedule, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    partition = data.draw(st.integers(0, schedule.partitions - 1))
    read: set[tuple[int, int]] = set()
    for slices in whole_epoch(schedule, epoch, partition, schedule.partitions):
        for held in slices:
            sizes = np.asarray([schedule.catalogue[number].shard_samples for number in held.source])
            read |= set(zip(held.source.tolist(), (held.index // sizes).tolist(), strict=True))
    named = {(int(source), int(shard)) for source, shard in schedule.shards_of(epoch, [partition])}
    if schedule.costs is None:
        assert read == named
    assert read <= named


@settings(max_examples=50)
@given(schedules(), st.data())
def test_shards_of_several_partitions_are_those_of_each(schedule: Schedule, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    partitions = data.draw(st.lists(st.integers(0, schedule.partitions - 1), min_size=1, unique=True))
    of_each = [schedule.shards_of(epoch, [partition]) for partition in partitions]
    assert np.array_equal(schedule.shards_of(epoch, partitions), np.unique(np.concatenate(of_each), axis=0))


def test_partitions_that_deal_with_each_other_are_swept_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue([Source(f"S{number}", 4 + number, 96, shard_samples=8) for number in range(3)])
    plan = make_plan(catalogue, strategy="packed", batch=16, partitions=8)
    schedule = Schedule(catalogue, plan, 0, 8, 1, costs=(4, 5, 6), within=4)
    swept: Counter[tuple[int, int]] = Counter()
    sweep = Assignment.shards

    def counted(self: Assignment, key: Keys, bucket: int, partition: int) -> set[tuple[int, int]]:
        swept[bucket, partition] += 1
        return sweep(self, key, bucket, partition)

    monkeypatch.setattr(Assignment, "shards", counted)
    schedule.shards_of(0, [0, 1, 3])
    assert swept == {(bucket, partition): 1 for bucket in range(len(plan.buckets)) for partition in range(4)}


@many_cases
@given(schedules(), st.data())
def test_a_pool_gives_every_sample_to_one_variant_and_each_its_share(schedule: Schedule, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    owners: dict[tuple[str, int, int], int] = {}
    for held in (held for step in whole_epoch(schedule, epoch) for held in step):
        for number, index, weight in zip(held.source, held.index, held.weight, strict=True):
            source = schedule.catalogue[number]
            if weight:
                assert owners.setdefault((source.name, int(index), held.epoch), source.variant) == source.variant
    if schedule.plan.strategy != "sequential":
        shares = Counter((name, variant) for (name, _, _), variant in owners.items())
        assert shares == {(source.name, source.variant): source.count for source in schedule.catalogue}
    for members in schedule.catalogue.pools.values():
        names = {schedule.catalogue[member].name for member in members}
        fixed = SourceTable(schedule.catalogue).fixed_elements(members[0])
        for (name, index, number), variant in owners.items():
            same_block = index % len(members) == 0 and index < fixed * len(members)
            if name in names and same_block and (name, index + 1, number) in owners:
                assert owners[name, index + 1, number] != variant


@pytest.mark.parametrize("count", [300, 301, 302])
def test_every_sample_of_a_pool_meets_every_variant_equally_often(count: int) -> None:
    catalogue = Catalogue(pooled_sources("A", {0: 4, 1: 8, 2: 12}, count, shard_samples=16))
    schedule = Schedule(catalogue, make_plan(catalogue, strategy="global", batch=10), 0, 1, epochs=200)
    owners = np.zeros((schedule.epochs, count), np.int64)
    for epoch in range(schedule.epochs):
        for held in (held for step in whole_epoch(schedule, epoch) for held in step):
            true = held.weight > 0
            owners[epoch, held.index[true]] = held.variant
    share = np.stack([(owners == variant).mean(axis=0) for variant in range(3)])
    assert np.abs(share - 1 / 3).max() < 0.15
    assert abs(np.corrcoef(owners[0], owners[1])[0, 1]) < 0.2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_epochs_and_seeds_give_other_orders(strategy: str) -> None:
    schedule = example(strategy)
    other = example(strategy, seed=1)
    first, second = schedule.global_step(0, 0), schedule.global_step(1, 0)
    assert not all(map(equal_slices, first, second))
    assert not all(map(equal_slices, first, other.global_step(0, 0)))


@pytest.mark.parametrize("strategy", IN_ONE_PHASE)
def test_batches_of_all_buckets_are_shuffled_together(strategy: str) -> None:
    """HeterCSI Algorithm 1, line 18; visiting bucket after bucket would give a correlation of about 1."""
    schedule = example(strategy, samples=400)
    buckets = [step[0].bucket for step in whole_epoch(schedule, 0)]
    if len(set(buckets)) > 1:
        assert abs(np.corrcoef(np.arange(len(buckets)), buckets)[0, 1]) < 0.2
    if strategy == "bucket":
        assert [step[0].bucket for step in whole_epoch(schedule, 1)] != buckets


def test_shuffled_samples_do_not_follow_their_order_on_disk() -> None:
    schedule = example("global", samples=400)
    index = np.concatenate([step[0].index for step in whole_epoch(schedule, 0)])
    assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(len(index)), index)[0, 1]) < 0.05


def test_alternating_batches_hold_one_set_and_sets_take_turns() -> None:
    names = set_order(example("alternating"))
    assert sum(one != other for one, other in pairwise(names)) > len(set(names))
    names = set_order(example("alternating_sets"))
    assert list(dict.fromkeys(names)) == [f"S{number}" for number in range(6)]
    assert sum(one != other for one, other in pairwise(names)) == 5


@pytest.mark.parametrize("partitions", [1, 4, 16])
def test_partitions_get_other_shards_each_epoch(partitions: int) -> None:
    catalogue = Catalogue([Source(f"S{number}", 4, 4096, shard_samples=32) for number in range(2)])
    schedule = Schedule(
        catalogue, make_plan(catalogue, strategy="global", batch=64, partitions=partitions), 0, partitions, 2
    )
    epochs = [[schedule.shards_of(epoch, [partition]) for partition in range(partitions)] for epoch in (0, 1)]
    for shards in epochs:
        assert [len(held) for held in shards] == [256 // partitions] * partitions
        assert len(np.unique(np.concatenate(shards), axis=0)) == 256
    if partitions > 1:
        assert not np.array_equal(epochs[0][0], epochs[1][0])


def test_partitions_are_balanced_and_touch_few_shards_where_counts_do_not_divide() -> None:
    catalogue = Catalogue([Source(f"S{number}", 4, 1003 + number, shard_samples=32) for number in range(5)])
    schedule = Schedule(catalogue, make_plan(catalogue, strategy="global", batch=16, partitions=8), 0, 8, 1)
    shards = [len(schedule.shards_of(0, [partition])) for partition in range(8)]
    assert sum(shards) <= 5 * 32 + 8 * (2 + 5)
    held = [sum(int(step[0].weight.sum()) for step in whole_epoch(schedule, 0, rank, 8)) for rank in range(8)]
    assert max(held) - min(held) <= 1
    assert sum(held) == catalogue.total_samples


def test_a_schedule_survives_pickling() -> None:
    schedule = example("bucket")
    before = schedule.global_step(1, 3)
    after = pickle.loads(pickle.dumps(schedule)).global_step(1, 3)
    assert all(map(equal_slices, before, after))


def test_schedules_are_the_same_in_every_process() -> None:
    """Real processes with other hash seeds; sets and dicts must not leak into the order."""
    code = "from tests.samplers.test_schedule import digest_of_examples; print(digest_of_examples())"
    digests = {digest_of_examples()}
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
            check=True,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_a_billion_samples_cost_no_memory() -> None:
    catalogue = Catalogue([Source(f"S{number}", 8 * (1 + number % 97), 10**6) for number in range(1000)])
    tracemalloc.start()
    plan = make_plan(catalogue, method="optimal", buckets=16, batch=128 * 1024, partitions=1024)
    schedule = Schedule(catalogue, plan, 0, 1024, 2)
    last = schedule.steps(1) - 1
    slices = schedule.rank_step(1, last, 1023, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(slices[0].index) == 128
    assert peak < 30e6


def set_order(schedule: Schedule) -> list[str]:
    names = []
    for step in whole_epoch(schedule, 0):
        held = {schedule.catalogue[number].name for number in step[0].source}
        assert len(held) == 1
        names += list(held)
    return names


def digest_of_examples() -> str:
    """SHA-256 over all steps of an example of each strategy, also of one with pools, mixed tails and several slices."""
    catalogue = Catalogue(
        [source for n in range(4) for source in pooled_sources(f"P{n}", {0: 3 + n, 1: 9 - n}, 70 + n)]
    )
    plan = make_plan(catalogue, method="quantile", buckets=2, batch=12, partitions=6)
    mixed = Schedule(catalogue, plan, 5, 6, 2, slices=2, tails="mixed")
    summary = hashlib.sha256()
    for schedule in (*map(example, STRATEGIES), mixed):
        summary.update(repr(sorted(schedule.settings().items())).encode())
        for _, _, slices in schedule.iterate(0, 0, 0, 1):
            for held in slices:
                summary.update(labels_and_arrays(held))
    return summary.hexdigest()


def labels_and_arrays(held: Slice) -> bytes:
    labels = f"{held.bucket} {held.variant} {held.epoch}".encode()
    return labels + held.source.tobytes() + held.index.tobytes() + held.weight.tobytes()


def pool_size(catalogue: Catalogue, number: int) -> int:
    name = catalogue[number].name
    return sum(source.count for source in catalogue if source.name == name)


def per_bucket(buckets: tuple) -> list[tuple[int, int]]:
    return [(bucket.samples, bucket.batch_size) for bucket in buckets]


def remainders(buckets: tuple, variants: dict[int, int]) -> list[tuple[int, int]]:
    """For each variant the samples that fill no slice, and the batch of the longest bucket that leaves some."""
    found = []
    for variant in variants:
        left = [(b.samples % b.batch_size, b.batch_size) for b in buckets if b.variant == variant]
        left = [(rest, batch) for rest, batch in left if rest]
        if left:
            found.append((sum(rest for rest, _ in left), left[-1][1]))
    return found
