"""What the ranks of an attempt exchange as Python objects, beside the tensors of a step.

Every rank calls these functions in the same order, and each returns on a rank once all have called it.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")


def from_rank_zero(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, where alone it is called."""
    found: list[T | None] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order."""
    found = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def sum_over_ranks(counters: Mapping[str, float]) -> dict[str, float]:
    """Sums of equally named counters over all ranks."""
    parts = gather(dict(counters))
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def gather_rows(rows: NDArray[np.float64], device: torch.device) -> Callable[[], NDArray[np.float64]]:
    """Begins to gather arrays of one shape [...]; what it returns waits for those of all ranks, [ranks, ...].

    device: the rank's, over which NCCL exchanges them; the host does not wait for it before it reads.
    """
    own = torch.from_numpy(rows)
    if device.type == "cuda":
        own = own.pin_memory().to(device, non_blocking=True)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    everyone = torch.stack(found)
    if not everyone.is_cuda:
        return everyone.numpy
    host = torch.empty_like(everyone, device="cpu", pin_memory=True).copy_(everyone, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> NDArray[np.float64]:
        arrived.synchronize()
        return host.numpy()

    return read
