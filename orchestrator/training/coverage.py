"""What all ranks together did in an epoch: how often each sample was trained on, and how even the load was."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from samplers.catalogue import Catalogue
from samplers.schedule import Slice


class EpochCoverage:
    """One byte a sample of the catalogue; fillers (weight 0) do not count."""

    def __init__(self, catalogue: Catalogue) -> None:
        offsets: dict[str, int] = {}
        total = 0
        self._offset = np.zeros(len(catalogue.sources), np.int64)
        for number, source in enumerate(catalogue.sources):
            pool = source.pool or source.name
            if pool not in offsets:
                offsets[pool] = total
                total += sum(other.count for other in catalogue.sources if (other.pool or other.name) == pool)
            self._offset[number] = offsets[pool]
        self._seen = np.zeros(total, np.uint8)

    def add(self, pieces: Sequence[Slice]) -> None:
        """Count the true samples of this rank's slices."""
        for piece in pieces:
            true = piece.weight > 0
            np.add.at(self._seen, self._offset[piece.source[true]] + piece.index[true], 1)

    def finish(self) -> tuple[float, float]:
        """Shares of the samples that were seen and that were seen more than once (collective); starts anew."""
        seen = torch.from_numpy(self._seen.astype(np.int32))
        if dist.get_backend() == "nccl":
            seen = seen.cuda()
        dist.all_reduce(seen)
        self._seen[:] = 0
        return float((seen > 0).double().mean()), float((seen > 1).double().mean())


def sum_over_ranks(counters: Mapping[str, float]) -> dict[str, float]:
    """Sums of equally named counters over all ranks (collective)."""
    told: list[Mapping[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(told, dict(counters))
    names = dict.fromkeys(name for part in told for name in part)
    return {name: sum(part.get(name, 0.0) for part in told) for name in names}


def imbalance_of_ranks(tokens: int) -> float:
    """(most - fewest) / mean of what the ranks computed (collective)."""
    told = [0] * dist.get_world_size()
    dist.all_gather_object(told, tokens)
    return (max(told) - min(told)) / max(float(np.mean(told)), 1.0)
