"""Allocator metrics, from statistics as torch names them; no GPU is needed to read a dictionary."""

import torch

from orchestrator.monitoring import allocator
from orchestrator.monitoring.allocator import allocator_metrics, describe


def test_metrics_of_the_statistics() -> None:
    stats = {"allocated_bytes.all.peak": 3_000_000, "reserved_bytes.all.peak": 5_000_000, "num_alloc_retries": 2}
    assert describe(stats) == {
        "memory/allocated_megabytes": 3.0,
        "memory/reserved_megabytes": 5.0,
        "memory/allocation_retries": 2.0,
    }
    assert describe({}) == {}


def test_a_cpu_has_none_and_a_gpu_is_asked(monkeypatch) -> None:
    stats = dict.fromkeys(allocator.NAMES.values(), 1000000) | {allocator.RETRIES: 0}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert allocator_metrics(torch.device("cpu")) == {}
    assert allocator_metrics(torch.device("cuda", 0))["memory/reserved_megabytes"] == 1.0
