"""What torch's allocators of GPU memory have to say of all ranks, as metrics of a step."""

from collections.abc import Sequence

import torch

MEGABYTE = 1e6


def allocator_statistics(device: torch.device) -> tuple[float, ...]:
    """Of this rank's device: (peak bytes allocated, peak bytes reserved, retries) since the rank began; () on a CPU.

    What is reserved and not allocated lies in fragments. A retry is a time that the allocator gave its cache back
    because an allocation failed: every one waits for the device.
    """
    if device.type != "cuda":
        return ()
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    # It is empty before the first allocation.
    if not stats:
        return 0.0, 0.0, 0.0
    allocated, reserved = (float(stats[name]["all"]["peak"]) for name in ("allocated_bytes", "reserved_bytes"))
    return allocated, reserved, float(stats["num_alloc_retries"])


def allocator_metrics(ranks: Sequence[Sequence[float]]) -> dict[str, float]:
    """Metrics of the statistics of all ranks, as each has them; none where there are none (CPU).

    The fullest rank is the one that has reserved most; of several the one that has allocated most of it.
    """
    if not ranks:
        return {}
    allocated, reserved, retries = zip(*ranks, strict=True)
    fullest = max(range(len(ranks)), key=lambda rank: (reserved[rank], allocated[rank]))
    return {
        "memory/allocated_megabytes": allocated[0] / MEGABYTE,
        "memory/reserved_megabytes": reserved[0] / MEGABYTE,
        "memory/highest_allocated_megabytes": max(allocated) / MEGABYTE,
        "memory/highest_reserved_megabytes": max(reserved) / MEGABYTE,
        "memory/fullest_rank": float(fullest),
        "memory/allocation_retries": sum(retries),
    }
