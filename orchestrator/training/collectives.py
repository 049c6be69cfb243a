"""What the ranks of an attempt exchange as Python objects, beside the tensors of a step.

Every rank calls these functions in the same order, and each returns on a rank once all have called it.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch.distributed as dist

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
