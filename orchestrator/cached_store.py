"""A channel store whose shards come and go."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from channels.manifest import Shard, StoredSet
from channels.store import ChannelStore


class CachedStore(ChannelStore):
    """Reads the sets of a store from copies of its shards in another folder, memory-mapped, from several threads.

    Nothing checks that a shard is there before it is read. A shard stays mapped, and its space taken after it was
    evicted, until it is forgotten.
    """

    def __init__(self, path: Path, sets: Mapping[str, StoredSet]) -> None:
        super().__init__(path, sets)
        self._mapping = threading.Lock()

    def forget(self, files: Iterable[str]) -> None:
        """Unmap shards; a read under way ends undisturbed, a later one maps them anew."""
        with self._mapping:
            for file in files:
                self._mapped.pop(file, None)

    def _tensors(self, shard: Shard) -> dict[str, NDArray[Any]]:
        with self._mapping:
            return super()._tensors(shard)
