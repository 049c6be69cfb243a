"""Totals of an epoch against numbers worked out by hand, on a group of one rank and of two."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training import totals as totals_module
from orchestrator.training.totals import EpochCoverage, EpochTotals, hash_sum, hash_sum_of_range
from samplers.catalogue import Catalogue, Source
from tests.orchestrator.training.batches import slice_of, step_batch, step_result

CATALOGUE = Catalogue((Source("A", 4, 4), Source("B", 8, 2)))


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A group of this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_an_epoch_is_summed_and_the_next_one_begins_at_zero() -> None:
    totals = EpochTotals(CATALOGUE)
    totals.add(step_batch(0, slices=(slice_of([0, 1, 2, 3]),), tokens=16), step_result(padded=40), 1.5)
    # A filler, and a sample that comes a second time.
    last = step_batch(1, slices=(slice_of([0, 2], [1.0, 0.0]),), tokens=24, weight=0.5)
    totals.add(last, step_result(padded=60), 2.5)
    assert totals.saved == (4.0, 100, 40)
    metrics = totals.finish(2, {"data/moved_mb": 3.0})
    assert metrics == {
        "data/coverage": 4 / 6,
        "data/repeated": 1 / 6,
        # A sample of the first step weighs 1/4, the one of the second step 1/2.
        "data/sample_weight_spread": 2.0,
        "data/epoch_padding_ratio": 0.6,
        "perf/epoch_tokens_per_s": 10.0,
        "time/epoch_min": 4.0 / 60,
        "train/epochs_done": 3.0,
        "data/rank_imbalance": 0.0,
        "data/moved_mb": 3.0,
    }
    assert totals.saved == (0.0, 0, 0)
    totals.add(step_batch(0, slices=(slice_of([0, 1], source=1),), tokens=2), step_result(padded=2), 1.0)
    assert totals.finish(3, {})["data/coverage"] == pytest.approx(2 / 6)


@pytest.mark.usefixtures("alone")
def test_a_resumed_epoch_counts_what_earlier_attempts_did() -> None:
    totals = EpochTotals(CATALOGUE)
    totals.resume((7.0, 50, 20), iter([(slice_of([0, 1]),), (slice_of([0], source=1), slice_of([1], source=1))]))
    totals.add(step_batch(2, slices=(slice_of([2, 3]),), tokens=30), step_result(padded=50), 1.0)
    metrics = totals.finish(0, {})
    assert (metrics["data/coverage"], metrics["data/repeated"]) == (1.0, 0.0)
    assert metrics["data/epoch_padding_ratio"] == 0.5
    assert metrics["time/epoch_min"] == pytest.approx(8.0 / 60)


@given(st.lists(st.integers(0, 39), min_size=40, max_size=40))
def test_samples_that_are_not_each_there_once_have_another_sum_of_hashes(samples: list[int]) -> None:
    assert (hash_sum(np.array(samples)) == hash_sum_of_range(0, 40)) is (sorted(samples) == list(range(40)))


def test_sums_of_hashes_add_up_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hash_sum_of_range(0, 1000)
    monkeypatch.setattr(totals_module, "PART", 7)
    parts = [(0, 333), (333, 333), (333, 1000)]
    assert sum(hash_sum_of_range(first, last) for first, last in parts) % 2**64 == whole == hash_sum(np.arange(1000))
    # These have the same count, sum, sum of squares and sum of cubes.
    assert hash_sum(np.array([0, 4, 7, 11])) != hash_sum(np.array([1, 2, 9, 10]))


def exchanged() -> tuple[int, float]:
    """Bytes that the ranks reduce for an epoch of six samples that are each seen once, and their coverage."""
    import torch.distributed as dist

    rank, reduce, sizes = dist.get_rank(), dist.all_reduce, []

    def counted(tensor: Any) -> None:
        sizes.append(tensor.nbytes)
        reduce(tensor)

    coverage = EpochCoverage(CATALOGUE)
    coverage.add((slice_of([2 * rank, 2 * rank + 1]), slice_of([rank], source=1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counted)
        share, repeated = coverage.finish()
    assert repeated == 0.0
    return sum(sizes), share


def test_a_whole_epoch_costs_two_numbers(ranks: Any) -> None:
    assert ranks(2, exchanged) == [(16, 1.0)] * 2


def finish_on_ranks() -> dict[str, float]:
    """Rank 0 has computed three times as many tokens as rank 1; only rank 1 has moved shards."""
    import torch.distributed as dist

    rank = dist.get_rank()
    totals = EpochTotals(CATALOGUE)
    totals.add(step_batch(0, slices=(slice_of([2 * rank, 2 * rank + 1]),), tokens=(30, 10)[rank]), step_result(), 1.0)
    return totals.finish(0, {"data/moved_mb": 2.0} if rank else {})


def test_ranks_are_summed_and_compared(ranks: Any) -> None:
    first, second = ranks(2, finish_on_ranks)
    assert first["data/coverage"] == second["data/coverage"] == pytest.approx(4 / 6)
    assert first["data/rank_imbalance"] == second["data/rank_imbalance"] == 1.0
    assert first["data/moved_mb"] == second["data/moved_mb"] == 2.0
