"""Allocator metrics, from statistics as torch names them; no GPU is needed to read a dictionary."""

from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.monitoring.allocator import allocator_metrics, allocator_statistics
from tests.ranks import RankPools

GPU = torch.device("cuda", 0)


def stats_of_torch(allocated: int, reserved: int, retries: int) -> dict[str, Any]:
    return {
        "allocated_bytes": {"all": {"current": 1, "peak": allocated}, "small_pool": {"peak": 2}},
        "reserved_bytes": {"all": {"current": 1, "peak": reserved}},
        "num_alloc_retries": retries,
    }


def test_statistics_are_read_as_torch_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([{}, stats_of_torch(3_000_000, 5_000_000, 2)])
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: next(found))
    assert allocator_statistics(GPU) == (0, 0, 0), "before the first allocation"
    assert allocator_statistics(GPU) == (3e6, 5e6, 2)


def test_the_fullest_rank_is_named_beside_the_first_ones_memory() -> None:
    ranks = np.array([(3e6, 5e6, 2.0), (9e6, 9e6, 0.0), (1e6, 11e6, 1.0), (2e6, 11e6, 0.0)])
    assert allocator_metrics(ranks) == {
        "memory/allocated_megabytes": 3.0,
        "memory/reserved_megabytes": 5.0,
        "memory/highest_allocated_megabytes": 9.0,
        "memory/highest_reserved_megabytes": 11.0,
        "memory/fullest_rank": 3.0,
        "memory/allocation_retries": 3.0,
    }


def reported(memory: list[tuple[float, ...]]) -> tuple[Any, Any, int]:
    """What a rank reads of a step's report: memory of all ranks, other numbers, and how many numbers were exchanged."""
    import torch.distributed as dist

    from orchestrator.run.signals import SILENCE
    from orchestrator.training.step_report import StepReport
    from tests.orchestrator.training.batches import step_batch

    rank = dist.get_rank()
    report = StepReport(torch.tensor([0.1, 0.2]) * (rank + 1), step_batch(0), SILENCE, 0.25 * (rank + 1), memory[rank])
    report.add_norm(1.0)
    result = report.read()
    others = (result.losses, result.padded_tokens, result.rank_seconds.tolist())
    return result.rank_memory.tolist(), others, len(report._sums)


def test_ranks_learn_of_each_others_memory_in_the_reduction_of_a_step(ranks: RankPools) -> None:
    memory = [(3e10, 5e10, 0.0), (4e10, 7e10 + 1, 2.0)]
    assert [found for found, _, _ in ranks(2, reported, memory)] == [[list(rank) for rank in memory]] * 2


def test_on_a_cpu_the_reduction_is_as_long_as_without_memory(ranks: RankPools) -> None:
    without, with_memory = ranks(2, reported, [(), ()])[0], ranks(2, reported, [(1.0,), (2.0,)])[0]
    assert without[0] == [[], []] and without[1] == with_memory[1] and with_memory[2] == without[2] + 2


def test_a_cpu_has_none() -> None:
    assert allocator_statistics(torch.device("cpu")) == () and allocator_metrics(np.zeros((2, 0))) == {}
