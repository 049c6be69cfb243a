"""What torch's allocator of GPU memory has to say of a rank, as metrics of a step."""

from collections.abc import Mapping

import torch

MEGABYTE = 1e6
NAMES = {
    "memory/allocated_megabytes": "allocated_bytes.all.peak",
    "memory/reserved_megabytes": "reserved_bytes.all.peak",
}
"""Peaks since the rank began; what is reserved and not allocated lies in fragments."""
RETRIES = "num_alloc_retries"
"""Times that it gave its cache back because an allocation failed: every one waits for the device."""


def allocator_metrics(device: torch.device) -> dict[str, float]:
    """Of this rank's device; nothing on a CPU."""
    return describe(torch.cuda.memory_stats(device)) if device.type == "cuda" else {}


def describe(stats: Mapping[str, int]) -> dict[str, float]:
    """Metrics of what ``torch.cuda.memory_stats`` returns, which is empty before the first allocation."""
    if not stats:
        return {}
    found = {name: stats[key] / MEGABYTE for name, key in NAMES.items()}
    return {**found, "memory/allocation_retries": float(stats[RETRIES])}
