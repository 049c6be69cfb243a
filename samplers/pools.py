"""Pools: how the sources of several variants share the samples of one set, differently in each epoch.

The samples of a pool of V sources lie in blocks of V, in the order of the shards on disk; a permutation keyed by
(epoch, pool, block) gives each sample of a block to one source. Where V does not divide the pool, one block is short
and serves the first sources only; in every epoch it is another one of the last blocks, so that every sample meets every
variant. Each sample goes to exactly one variant, and element j of a source is its sample of the j-th block in which it
has one. An element of a source without a pool is the sample of its own number.
"""

import numpy as np
from numpy.typing import NDArray

from samplers.catalogue import Catalogue
from samplers.permutation import Integers, Keys, Stream, child_keys, permute

LEAST_MOVES = 16
"""Blocks that take turns at being the short one, at least."""


class SourceTable:
    """From elements of sources to samples of sets or pools: tables of O(sources)."""

    def __init__(self, catalogue: Catalogue) -> None:
        count = len(catalogue)
        self._width = np.ones(count, np.int64)
        self._rank = np.zeros(count, np.int64)
        self._rest = np.zeros(count, np.int64)
        self._blocks = np.asarray([source.count for source in catalogue], np.int64)
        self._fixed = self._blocks.copy()
        self._pool = np.zeros(count, np.int64)
        self._shard_samples = np.asarray([source.shard_samples for source in catalogue], np.int64)
        for number, members in enumerate(catalogue.pools.values()):
            self._join(number, np.asarray(members))
        self._pooled = bool(catalogue.pools)

    def run_width(self, source: int) -> int:
        """Elements of a run: as many as come from one shard."""
        return max(int(self._shard_samples[source]) // int(self._width[source]), 1)

    def fixed_elements(self, source: int) -> int:
        """Elements whose block is the same in every epoch: all but those behind which the short block moves."""
        return int(self._fixed[source])

    def indices(self, keys: Keys, source: Integers, element: Integers) -> Integers:
        """Sample indices within the set or pool, ascending with the element but for the order inside a block."""
        if not self._pooled:
            return element
        index = element.copy()
        shared = np.flatnonzero(self._width[source] > 1)
        who, number = source[shared], element[shared]
        width, rest, blocks, rank = self._width[who], self._rest[who], self._blocks[who], self._rank[who]
        pool_keys = child_keys(child_keys(_at(keys, shared), Stream.POOLS), self._pool[who])
        draws = child_keys(pool_keys, blocks + 1) % (blocks - self._fixed[who] + 1).astype(np.uint64)
        short = np.where(rest > 0, self._fixed[who] + draws.astype(np.int64), blocks)
        in_short = (number == short) & (rank < rest)
        block = number - ((number > short) & (rank < rest))
        start = block * width + np.where(in_short | (block < short), 0, rest)
        order = child_keys(pool_keys, np.where(in_short, blocks, block))
        index[shared] = start + permute(rank, np.where(in_short, rest, width), order)
        return index

    def shards(self, source: int, indices: Integers) -> set[tuple[int, int]]:
        """(source, shard) pairs of sample indices."""
        return {(source, int(number)) for number in np.unique(indices // self._shard_samples[source])}

    def _join(self, pool: int, members: NDArray[np.int64]) -> None:
        total = int(self._blocks[members].sum())
        blocks, rest = divmod(total, len(members))
        self._width[members] = len(members)
        self._rank[members] = np.arange(len(members))
        self._rest[members] = rest
        self._blocks[members] = blocks
        self._pool[members] = pool
        moving = max(self.run_width(int(members[0])), LEAST_MOVES) if rest else 0
        self._fixed[members] = max(blocks - moving, 0)


def _at(keys: Keys, chosen: NDArray[np.int64]) -> Keys:
    return keys if keys.size == 1 else keys[chosen]
