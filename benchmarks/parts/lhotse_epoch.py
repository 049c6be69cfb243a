"""One epoch of Lhotse's DynamicBucketingSampler, for sampler_speed.py; needs Lhotse and torch, nothing of Wavetrain.

    python lhotse_epoch.py LENGTHS.npy OUT.npz WORLD BATCH BUCKETS

LENGTHS.npy: tokens of every sample. Writes the arrays step, rank, sample of all ranks, and prints seconds and memory.
The first pass is timed as one rank lives it; the second takes down what every rank gets, and is not timed.
"""

import json
import resource
import sys
import time
from typing import Any

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.manipulation import combine


class Recorder(DynamicBucketingSampler):
    """Takes down the batches of all ranks, from which each rank of Lhotse picks its own."""

    drawn: list[Any]

    def _next_batch(self) -> Any:
        batch = super()._next_batch()
        self.drawn.append(batch)
        return batch

    def __next__(self) -> Any:
        """The batch of this rank; ``drawn`` then holds those of all ranks."""
        self.drawn = []
        selected = super().__next__()
        if len(self.drawn) < self.world_size:
            combined = combine(self.drawn)
            while len(combined) < self.world_size:
                combined = combined + combined.subset(first=self.world_size - len(combined))
            self.drawn = combined.split(self.world_size)
        return selected


def make_sampler(kind: type, cuts: CutSet, world: int, batch: int, buckets: int) -> Any:
    """Fixed number of samples a batch, same bucket on all ranks; everything else as Lhotse sets it."""
    return kind(
        cuts, max_cuts=batch, num_buckets=buckets, shuffle=True, drop_last=False, world_size=world, rank=0, seed=0
    )


def main() -> None:
    """Time one rank's epoch, then record all ranks."""
    lengths = np.load(sys.argv[1])
    world, batch, buckets = (int(argument) for argument in sys.argv[3:6])
    imports = peak_mebibytes()
    # Lhotse estimates boundaries from the first 10,000 samples: the manifest is shuffled, as its documentation advises.
    order = np.random.default_rng(0).permutation(len(lengths))
    cuts = CutSet.from_cuts(
        MonoCut(id=str(number), start=0.0, duration=float(lengths[number]), channel=0) for number in order
    ).to_eager()
    started = time.perf_counter()
    steps = sum(1 for _ in make_sampler(DynamicBucketingSampler, cuts, world, batch, buckets))
    seconds = time.perf_counter() - started
    memory = peak_mebibytes() - imports
    rows = []
    sampler = make_sampler(Recorder, cuts, world, batch, buckets)
    for step, _ in enumerate(sampler):
        for rank, held in enumerate(sampler.drawn):
            rows += [(step, rank, int(cut.id.partition("_")[0])) for cut in held]
    step, rank, sample = np.asarray(rows).T
    np.savez(sys.argv[2], step=step, rank=rank, sample=sample)
    print(json.dumps({"seconds": seconds, "memory_mib": memory, "steps": steps}))


def peak_mebibytes() -> float:
    """Peak resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
