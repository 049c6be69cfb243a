"""Pools: how the sources of several variants share the samples of one set, differently in each epoch.

Element j of the v-th of V sources stands for one of the samples j V .. j V + V - 1 of the pool: a permutation keyed by
(epoch, pool, j) says which. Each sample goes to exactly one variant, each variant gets its share of
every stretch of the pool, and elements follow the shards on disk. Where V does not divide the pool, the first sources
share what is left. An element of a source without a pool stands for the sample of its own number.
"""

import numpy as np
from numpy.typing import NDArray

from samplers.catalogue import Catalogue
from samplers.permutation import Integers, Keys, Stream, child_keys, permute


class SourceTable:
    """From elements of sources to samples of sets or pools: tables of O(sources)."""

    def __init__(self, catalogue: Catalogue) -> None:
        count = len(catalogue)
        self._width = np.ones(count, np.int64)
        self._rank = np.zeros(count, np.int64)
        self._rest = np.zeros(count, np.int64)
        self._blocks = np.asarray([source.count for source in catalogue], np.int64)
        self._pool = np.zeros(count, np.int64)
        self._shard_samples = np.asarray([source.shard_samples for source in catalogue], np.int64)
        for number, members in enumerate(catalogue.pools.values()):
            self._join(number, np.asarray(members))
        self._pooled = bool(catalogue.pools)

    def run_width(self, source: int) -> int:
        """Elements of a run: as many as come from one shard."""
        return max(int(self._shard_samples[source]) // int(self._width[source]), 1)

    def indices(self, keys: Keys, source: Integers, element: Integers) -> Integers:
        """Sample indices within the set or pool; a keyed permutation shares each block of V samples of a pool."""
        if not self._pooled:
            return element
        index = element.copy()
        shared = np.flatnonzero(self._width[source] > 1)
        who, block = source[shared], element[shared]
        size = np.where(block < self._blocks[who], self._width[who], self._rest[who])
        pool_keys = child_keys(child_keys(_at(keys, shared), Stream.POOLS), self._pool[who])
        index[shared] = block * self._width[who] + permute(self._rank[who], size, child_keys(pool_keys, block))
        return index

    def shards(self, source: int, indices: Integers) -> set[tuple[int, int]]:
        """(source, shard) pairs of sample indices."""
        return {(source, int(number)) for number in np.unique(indices // self._shard_samples[source])}

    def _join(self, pool: int, members: NDArray[np.int64]) -> None:
        total = int(self._blocks[members].sum())
        self._width[members] = len(members)
        self._rank[members] = np.arange(len(members))
        self._rest[members] = total % len(members)
        self._blocks[members] = total // len(members)
        self._pool[members] = pool


def _at(keys: Keys, chosen: NDArray[np.int64]) -> Keys:
    return keys if keys.size == 1 else keys[chosen]
