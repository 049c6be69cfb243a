"""What torch's allocators of GPU memory have to say of all ranks, as metrics of a step."""

import numpy as np
import torch
from numpy.typing import NDArray

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


def allocator_metrics(ranks: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of the statistics of all ranks, [ranks, 3] as each has them; none where there are none (CPU).

    The fullest rank is the one that has reserved most; of several the one that has allocated most of it.
    """
    if not ranks.size:
        return {}
    allocated, reserved, retries = ranks.T
    fullest = np.flatnonzero(reserved == reserved.max())
    return {
        "memory/allocated_megabytes": float(allocated[0]) / MEGABYTE,
        "memory/reserved_megabytes": float(reserved[0]) / MEGABYTE,
        "memory/highest_allocated_megabytes": float(allocated.max()) / MEGABYTE,
        "memory/highest_reserved_megabytes": float(reserved.max()) / MEGABYTE,
        "memory/fullest_rank": float(fullest[allocated[fullest].argmax()]),
        "memory/allocation_retries": float(retries.sum()),
    }
