"""Caches, stores and ranks in one process for tests of placement."""

from pathlib import Path

import numpy as np

from channels.shards import Samples
from channels.store import ChannelStore
from channels.writer import open_writer
from orchestrator.data.forms import Origin
from orchestrator.shard_cache.server import CacheSettings
from orchestrator.shard_cache.shard_map import ShardMap
from samplers.catalogue import Catalogue, Source
from tests.stores import spec_of

LENGTHS = {"N0": 3, "N1": 5, "N2": 9}
SHARD_SAMPLES = 4


def make_numbered_store(path: Path, samples: int, width: int = 1) -> ChannelStore:
    """Sets whose sample i consists of the numbers i + 1 + 1j * set; ``width`` antennas make the shards larger."""
    with open_writer(path, shard_samples=SHARD_SAMPLES) as writer:
        for number, name in enumerate(LENGTHS):
            values = np.arange(1, samples + 1) + 1j * number
            channels = np.broadcast_to(values[:, None, None, None], (samples, 1, 2, width)).astype(np.complex64)
            splits = {"train": [Samples(channels, {})]}
            writer.add_set(spec_of(name, (1, 2, width)), "pretrain", {"train": samples}, splits, {"seed": 0})
    return ChannelStore.open(path)


def catalogue_of(store: ChannelStore, samples: int) -> Catalogue:
    """One source a set."""
    return Catalogue([Source(name, LENGTHS[name], samples, shard_samples=SHARD_SAMPLES) for name in store.sets])


def origins_of(store: ChannelStore) -> tuple[Origin, ...]:
    """Where the samples of these sources lie."""
    return tuple(Origin(name, entry.spec.shape, 0, 1) for name, entry in store.sets.items())


def settings_for(
    store: ChannelStore, shard_map: ShardMap, folder: Path, capacity: int, ranks: tuple[int, ...] = (0,)
) -> CacheSettings:
    """Settings of a node's cache."""
    return CacheSettings(folder, capacity, store.path, shard_map.shards(), ranks)
