"""Which shards a node keeps for the epochs that its ranks are reading or about to read."""

from collections.abc import Mapping, Sequence
from itertools import accumulate


class EpochWindow:
    """How far the ranks of a node are, and which shards to keep for them.

    ranks: those of the node. sizes: bytes of every shard. capacity: bytes of the cache.
    """

    def __init__(self, ranks: Sequence[int], sizes: Mapping[str, int], capacity: int) -> None:
        self._ranks = frozenset(ranks)
        self._sizes = sizes
        self._capacity = capacity
        self._positions: dict[int, int] = {}
        self._epochs: dict[int, tuple[str, ...]] = {}

    def update(self, rank: int, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """A rank has read all epochs before ``position``; the node (not only this rank) needs these shards in these
        epochs."""
        assert rank in self._ranks, f"rank {rank} is not one of {sorted(self._ranks)}"
        self._positions[rank] = position
        self._epochs |= {epoch: tuple(files) for epoch, files in epochs.items()}
        first = min(self._positions.values())
        self._epochs = {epoch: files for epoch, files in self._epochs.items() if epoch >= first}

    def planned(self) -> tuple[str, ...]:
        """Shards to keep, the most urgent first.

        The first unfinished epoch is kept whole or not at all: kept in part it would leave its other shards no room.
        Later ones are kept as far as there is room; each only after all before it are kept whole, so that the ranks
        that are furthest behind always find their shards or the room for them.
        """
        kept: dict[str, None] = {}
        room = self._capacity
        for number, epoch in enumerate(sorted(self._epochs)):
            added = [file for file in dict.fromkeys(self._epochs[epoch]) if file not in kept]
            totals = accumulate(self._sizes[file] for file in added)
            fitting = [file for file, total in zip(added, totals, strict=True) if total <= room]
            whole = len(fitting) == len(added)
            if whole or number > 0:
                kept |= dict.fromkeys(fitting)
                room -= sum(self._sizes[file] for file in fitting)
            if not whole:
                break
        return tuple(kept)

    def files(self, epoch: int) -> tuple[str, ...] | None:
        """Shards of an unfinished epoch; None until every rank has said where it is, since one further behind may yet
        claim the room."""
        return self._epochs.get(epoch) if len(self._positions) == len(self._ranks) else None
