from dataclasses import replace

import numpy as np
import pytest

from samplers.catalogue import Catalogue, Source
from samplers.measures import bucket_entropy, source_entropy
from samplers.plan import make_plan
from samplers.schedule import Schedule
from tests.samplers.cases import published, whole_epoch


def padding_of_an_epoch(schedule: Schedule, world: int = 1) -> float:
    """Padding counted over every batch of every rank: true samples, each padded to the longest true one beside it."""
    lengths = np.asarray([source.length for source in schedule.catalogue])
    valid = padded = 0
    for rank in range(world):
        for held in (held for step in whole_epoch(schedule, 0, rank, world) for held in step):
            true = lengths[held.source[held.weight > 0]]
            valid += int(true.sum())
            padded += int(true.sum() if schedule.plan.packed else len(true) * true.max(initial=0))
    return 1 - valid / padded


@pytest.mark.parametrize(
    ("strategy", "padding"), [("bucket", 0.0469), ("global", 0.3646), ("alternating", 0.0), ("packed", 0.0)]
)
def test_padding_of_a_whole_published_epoch(strategy: str, padding: float) -> None:
    """HeterCSI Table III, N = 8, counted over every batch of an epoch instead of expected."""
    catalogue = published(8)
    plan = make_plan(catalogue, strategy=strategy, method="equal", buckets=4, batch=128)
    counted = padding_of_an_epoch(Schedule(catalogue, plan, 0, 1, 1))
    assert counted == pytest.approx(padding, abs=0.001)
    assert counted == pytest.approx(plan.padding, abs=0.001)


def test_a_rank_pads_only_its_own_share() -> None:
    catalogue = published(8, 900)
    schedule = Schedule(catalogue, make_plan(catalogue, strategy="global", batch=64, partitions=8), 0, 8, 1)
    assert padding_of_an_epoch(schedule, 8) < padding_of_an_epoch(schedule, 1)


def test_entropy_in_bits_and_normalised() -> None:
    catalogue = Catalogue([Source(name, 4, 32) for name in "ABCD"])
    sources = np.asarray([0, 0, 1, 1, 2, 3], np.int32)
    weight = np.asarray([1, 1, 1, 1, 0, 0], np.float32)
    assert source_entropy(catalogue, sources, weight).bits == 1.0
    assert source_entropy(catalogue, sources, weight).normalised == 0.5
    whole = make_plan(catalogue, strategy="global", batch=8).buckets[0]
    assert bucket_entropy(catalogue, whole).normalised == 1.0
    assert bucket_entropy(catalogue, replace(whole, spans=whole.spans[:1])).bits == 0.0


def test_a_single_set_has_no_entropy() -> None:
    catalogue = Catalogue([Source("A", 4, 32)])
    entropy = source_entropy(catalogue, np.zeros(3, np.int32), np.ones(3, np.float32))
    assert (entropy.bits, entropy.normalised) == (0.0, 0.0)


@pytest.mark.parametrize("partitions", [1, 8])
def test_few_long_samples_pad_few_batches(partitions: int) -> None:
    """The expectation that method ``optimal`` minimises is what the steps really pay, with any number of partitions."""
    catalogue = Catalogue([Source("A", 4, 9000), Source("B", 82, 9000), Source("C", 168, 100)])
    plan = make_plan(catalogue, method="optimal", buckets=2, batch=8, partitions=partitions)
    counted = padding_of_an_epoch(Schedule(catalogue, plan, 0, partitions, 1))
    assert counted == pytest.approx(plan.padding, abs=0.003)
    assert counted == pytest.approx(0.068, abs=0.003)
