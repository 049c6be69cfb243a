from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from samplers import measures
from samplers.catalogue import Catalogue, Source, pooled_sources
from samplers.measures import bucket_entropy, measure_epoch, source_entropy
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice
from tests.samplers.cases import published


class Faulty(Schedule):
    """A schedule that shows every step twice but the last, which it drops."""

    def iterate(self, epoch: int, step: int, rank: int, world: int) -> Iterator[tuple[int, int, tuple[Slice, ...]]]:
        for reached, number, slices in super().iterate(epoch, step, rank, world):
            if number + 1 < self.steps(reached):
                yield reached, number, slices
                yield reached, number, slices


@pytest.mark.parametrize(
    ("strategy", "padding"), [("bucket", 0.0469), ("global", 0.3646), ("alternating", 0.0), ("packed", 0.0)]
)
def test_padding_of_a_whole_published_epoch(strategy: str, padding: float) -> None:
    """HeterCSI Table III, N = 8, counted over every batch of an epoch instead of expected."""
    catalogue = published(8)
    plan = make_plan(catalogue, strategy=strategy, method="equal", buckets=4, batch=128)
    found = measure_epoch(Schedule(catalogue, plan, 0, 1, 1), 0)
    assert found.exact
    assert found.padding_ratio == pytest.approx(padding, abs=0.001)
    assert found.padding_ratio == pytest.approx(plan.padding, abs=0.001)
    assert found.coverage == 1.0
    assert found.duplicates == 0


def test_ranks_are_balanced_and_pad_their_own_share() -> None:
    catalogue = published(8, 900)
    plan = make_plan(catalogue, strategy="global", batch=64, partitions=8)
    schedule = Schedule(catalogue, plan, 0, 8, 1)
    alone, apart = measure_epoch(schedule, 0, 1), measure_epoch(schedule, 0, 8)
    assert apart.padding_ratio < alone.padding_ratio
    assert apart.sample_imbalance <= 1 / 900
    assert apart.token_imbalance < 0.01
    assert apart.source_entropy == alone.source_entropy


def test_repeated_and_dropped_samples_are_seen() -> None:
    catalogue = published(8, 200)
    schedule = Faulty(catalogue, make_plan(catalogue, batch=50, method="equal"), 0, 1, 1)
    found = measure_epoch(schedule, 0)
    assert found.coverage == pytest.approx(1 - 1 / 32)
    assert found.duplicates == 1550


def test_large_epochs_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "EXACT_SAMPLES", 1000)
    catalogue = published(8, 2000)
    schedule = Schedule(catalogue, make_plan(catalogue, batch=16, strategy="global"), 0, 1, 1)
    found = measure_epoch(schedule, 0, sampled_steps=100)
    assert (found.exact, found.coverage, found.steps) == (False, None, 100)
    assert found.padding_ratio == pytest.approx(measure_epoch(schedule, 0, sampled_steps=10**6).padding_ratio, abs=0.02)


def test_fillers_are_counted_and_weigh_nothing() -> None:
    catalogue = Catalogue([Source("A", 4, 30), Source("B", 8, 30)])
    schedule = Schedule(catalogue, make_plan(catalogue, strategy="alternating", batch=20), 0, 1, 1)
    found = measure_epoch(schedule, 0)
    assert found.fillers == pytest.approx(20 / 80)
    assert found.padding_ratio == 0.0
    assert found.coverage == 1.0


def test_pools_are_covered_once() -> None:
    catalogue = Catalogue(pooled_sources("A", {0: 4, 1: 8}, 101))
    found = measure_epoch(Schedule(catalogue, make_plan(catalogue, batch=10, strategy="global"), 0, 1, 1), 0)
    assert (found.coverage, found.duplicates) == (1.0, 0)


def test_entropy_in_bits_and_normalised() -> None:
    catalogue = Catalogue([Source(name, 4, 32) for name in "ABCD"])
    sources = np.asarray([0, 0, 1, 1, 2, 3], np.int32)
    weight = np.asarray([1, 1, 1, 1, 0, 0], np.float32)
    assert source_entropy(catalogue, sources, weight).bits == 1.0
    assert source_entropy(catalogue, sources, weight).normalised == 0.5
    whole = make_plan(catalogue, strategy="global", batch=8).buckets[0]
    assert bucket_entropy(catalogue, whole).normalised == 1.0
    assert bucket_entropy(catalogue, replace(whole, spans=whole.spans[:1])).bits == 0.0
