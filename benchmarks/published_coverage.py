"""Samples that an epoch of the published HeterCSI sampler sees, beside this project's schedule.

    python benchmarks/published_coverage.py

The published rule: samples sorted by length and cut into B buckets of equal size; of each bucket the end that fills no
batch of all ranks is dropped; every rank shuffles it by seed + rank + epoch + bucket and takes its slice of the result.
With a seed of its own a rank's order differs, so that slices overlap. 9,000 samples a set, batches of 128 a rank.
"""

import argparse

import numpy as np
from parts.record import record

from channels.presets import load_preset
from samplers.catalogue import catalogue_of_specs
from samplers.plan import make_plan
from samplers.schedule import Schedule

SAMPLES, BATCH, SEED = 9000, 128, 42
CASES = ((2, 8, 4), (4, 40, 4), (4, 40, 8), (8, 40, 8))
"""Ranks, sets, buckets."""


def main() -> None:
    """Draw an epoch of every case both ways, print, record."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    for ranks, sets, buckets in CASES:
        seen = published_share(ranks, sets * SAMPLES, buckets)
        rows.append({"ranks": ranks, "sets": sets, "buckets": buckets, "published_percent": 100 * seen,
                     "here_percent": 100 * our_share(ranks, sets, buckets)})  # fmt: skip
        print("{ranks} ranks, {sets:2} sets, {buckets} buckets: {published_percent:5.1f} % as published, "
              "{here_percent:5.1f} % here".format(**rows[-1]))  # fmt: skip
    record("published_coverage", {"samples": SAMPLES, "batch": BATCH, "seed": SEED}, rows)


def published_share(ranks: int, samples: int, buckets: int) -> float:
    """Part of the samples that any rank trains on in the first epoch."""
    seen = np.zeros(samples, bool)
    for number, bucket in enumerate(np.array_split(np.arange(samples), buckets)):
        kept = bucket[: len(bucket) // (BATCH * ranks) * BATCH * ranks]
        share = len(kept) // ranks
        for rank in range(ranks):
            order = np.random.RandomState(SEED + rank + number).permutation(kept)
            seen[order[rank * share : (rank + 1) * share]] = True
    return float(seen.mean())


def our_share(ranks: int, sets: int, buckets: int) -> float:
    """The same of this project's schedule, counted over the steps of every rank."""
    catalogue = catalogue_of_specs(load_preset("hetercsi").pretrain[:sets], SAMPLES)
    plan = make_plan(catalogue, method="equal", buckets=buckets, batch=BATCH * ranks)
    schedule = Schedule(catalogue, plan, seed=SEED, epochs=1, partitions=ranks)
    seen = np.zeros((sets, SAMPLES), bool)
    for rank in range(ranks):
        for _, _, (held,) in schedule.iterate(0, 0, rank, ranks):
            true = held.weight > 0
            seen[held.source[true], held.index[true]] = True
    return float(seen.mean())


if __name__ == "__main__":
    main()
