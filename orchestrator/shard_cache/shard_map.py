"""From scheduled samples to the files of a store that hold them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from channels.manifest import Shard
from channels.store import ChannelStore
from samplers.catalogue import Catalogue
from samplers.schedule import Schedule, Slice

if TYPE_CHECKING:
    from orchestrator.data.forms import Origin


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Shards of the training split that a catalogue draws from.

    by_source: for every source its shards, in order. samples: int64 [sources], training samples a shard.
    """

    by_source: tuple[tuple[Shard, ...], ...]
    samples: NDArray[np.int64]

    @classmethod
    def of(cls, store: ChannelStore, catalogue: Catalogue, origins: Sequence["Origin"]) -> "ShardMap":
        """The map of a catalogue whose source i is ``origins[i]`` of the store."""
        by_source = []
        samples = []
        for source, origin in zip(catalogue, origins, strict=True):
            split = store.sets[origin.set_name].splits["train"]
            samples.append(split.shard_samples * origin.samples_per_stored)
            members = catalogue.pools[source.pool] if source.pool is not None else None
            count = source.count if members is None else sum(catalogue[member].count for member in members)
            by_source.append(split.shards[: -(-count // samples[-1])])
        return cls(tuple(by_source), np.asarray(samples, np.int64))

    def files(self, slices: Sequence[Slice]) -> tuple[str, ...]:
        """Files that hold the samples of some slices, fillers included."""
        stride = 1 + max(len(shards) for shards in self.by_source)
        codes = [each.source * np.int64(stride) + each.index // self.samples[each.source] for each in slices]
        source, shard = np.divmod(np.unique(np.concatenate(codes)), stride)
        return self._names(np.stack([source, shard], axis=1))

    def epoch_files(self, schedule: Schedule, epoch: int, partitions: Sequence[int]) -> tuple[str, ...]:
        """Files that some partitions read in an epoch."""
        return self._names(schedule.shards_of(epoch, partitions))

    def all_files(self) -> tuple[str, ...]:
        """Files of every sample there is."""
        return tuple(shard.file for shard in self.shards())

    def shards(self) -> tuple[Shard, ...]:
        """All shards, each once."""
        return tuple({shard.file: shard for shards in self.by_source for shard in shards}.values())

    def size(self, files: Iterable[str]) -> int:
        """Bytes of some files."""
        sizes = {shard.file: shard.bytes for shard in self.shards()}
        return sum(sizes[file] for file in files)

    def _names(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """Distinct files of rows of (source, shard)."""
        return tuple(dict.fromkeys(self.by_source[source][shard].file for source, shard in rows.tolist()))
