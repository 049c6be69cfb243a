"""How often samples that lie together on disk share a batch, against a uniform shuffle."""

import numpy as np
import pytest

from samplers.catalogue import Catalogue, Source
from samplers.plan import make_plan
from samplers.schedule import Schedule
from tests.samplers.cases import whole_epoch

SHARD, SETS, SAMPLES, EPOCHS = 128, 2, 9000, 2


def meetings(partitions: int, batch: int, shuffle: str, apart: int) -> float:
    """Pairs of samples that lie less than ``apart`` from each other and share a batch, over the expected number."""
    catalogue = Catalogue([Source(f"S{number}", 4, SAMPLES, shard_samples=SHARD) for number in range(SETS)])
    plan = make_plan(catalogue, strategy="global", batch=batch, partitions=partitions)
    schedule = Schedule(catalogue, plan, 3, partitions, EPOCHS, shuffle=shuffle)
    found = 0
    for epoch in range(EPOCHS):
        for (held,) in whole_epoch(schedule, epoch):
            true = held.weight > 0
            index, shard = held.index[true], held.source[true] * SAMPLES + held.index[true] // SHARD
            together = (shard[:, None] == shard) & (np.abs(index[:, None] - index) < apart)
            found += int(np.triu(together, 1).sum())
    index = np.arange(SAMPLES)
    pairs = sum(int((index[gap:] // SHARD == index[:-gap] // SHARD).sum()) for gap in range(1, apart))
    return found / (EPOCHS * SETS * pairs * (batch - 1) / (SETS * SAMPLES - 1))


@pytest.mark.parametrize(
    ("partitions", "batch", "ratio"), [(4, 64, 0.95), (8, 64, 0.90), (32, 64, 0.55), (64, 64, 0.08), (64, 256, 0.77)]
)
def test_whole_shards_meet_the_less_the_fewer_samples_a_partition_gives(
    partitions: int, batch: int, ratio: float
) -> None:
    assert meetings(partitions, batch, "shard", SHARD) == pytest.approx(ratio, abs=0.025)


@pytest.mark.parametrize(("partitions", "batch"), [(4, 64), (64, 64), (64, 256)])
def test_single_samples_meet_as_in_a_uniform_shuffle(partitions: int, batch: int) -> None:
    assert meetings(partitions, batch, "sample", SHARD) == pytest.approx(1.0, abs=0.03)
    assert meetings(partitions, batch, "sample", 5) == pytest.approx(1.0, abs=0.15)
