"""The store that a preset will become, before any of its channels are made: to plan by."""

import math
from pathlib import Path

from channels.catalogue import Counts
from channels.manifest import Shard, StoredSet, StoredSplit, shard_file
from channels.presets import Preset
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from channels.writer import SHARD_SAMPLES


def specified_store(path: Path, preset: Preset, counts: Counts) -> ChannelStore:
    """A store of the same sets, splits and shards as ``channels.catalogue.make_store`` would fill; none can be read.

    Its fingerprint is another one, because nothing is known of the content.
    """
    everything = [(spec, "pretrain") for spec in preset.pretrain] + [(spec, "zeroshot") for spec in preset.zeroshot]
    sets = {spec.name: _specified_set(spec, role, counts) for spec, role in everything if any(counts.of(role).values())}
    return ChannelStore(path.absolute(), sets)


def _specified_set(spec: ChannelSpec, role: str, counts: Counts) -> StoredSet:
    splits = {name: _specified_split(spec, name, count) for name, count in counts.of(role).items() if count}
    return StoredSet(spec, role, splits, mean_power=1.0, origin={})


def _specified_split(spec: ChannelSpec, split: str, count: int) -> StoredSplit:
    firsts = range(0, count, SHARD_SAMPLES)
    sizes = [min(SHARD_SAMPLES, count - first) for first in firsts]
    sample_bytes = 8 * math.prod(spec.shape)
    shards = [
        Shard(shard_file(spec.name, split, index), size, size * sample_bytes, sha256="")
        for index, size in enumerate(sizes)
    ]
    return StoredSplit(count, tuple(shards), SHARD_SAMPLES)
