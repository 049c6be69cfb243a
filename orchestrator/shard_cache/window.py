"""Which shards a node keeps for the epochs that its ranks are reading or about to read."""

from collections.abc import Container, Mapping, Sequence


class EpochWindow:
    """What the ranks of a node told, and the shards to keep that follow from it.

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
        epochs. Saying it again changes nothing."""
        assert rank in self._ranks, f"rank {rank} is not one of {sorted(self._ranks)}"
        self._positions[rank] = position
        self._epochs |= {epoch: tuple(files) for epoch, files in epochs.items()}
        first = min(self._positions.values())
        self._epochs = {epoch: files for epoch, files in self._epochs.items() if epoch >= first}

    @property
    def complete(self) -> bool:
        """Whether every rank of the node has told where it is."""
        return len(self._positions) == len(self._ranks)

    def planned(self) -> tuple[str, ...]:
        """Shards to keep, the most urgent first.

        The first unfinished epoch is kept whole or not at all: kept in part it would leave its other shards no room.
        Later ones are kept as far as there is room; each only after all before it are kept whole, so that the ranks
        that are furthest behind always find their shards or the room for them.
        """
        kept: dict[str, None] = {}
        room = self._capacity
        for place, epoch in enumerate(sorted(self._epochs)):
            added = [file for file in dict.fromkeys(self._epochs[epoch]) if file not in kept]
            fitting = self._fitting(added, room)
            if len(fitting) < len(added) and place == 0:
                break
            kept |= dict.fromkeys(fitting)
            room -= sum(self._sizes[file] for file in fitting)
            if len(fitting) < len(added):
                break
        return tuple(kept)

    def is_whole(self, epoch: int, present: Container[str]) -> bool:
        """Whether all shards of an unfinished epoch are among ``present``; not before every rank has told where it is,
        since one further behind may yet claim the room."""
        if not self.complete or epoch not in self._epochs:
            return False
        # What is planned last arrives last, so the answer is mostly found at once from the end.
        return all(file in present for file in reversed(self._epochs[epoch]))

    def _fitting(self, files: Sequence[str], room: int) -> list[str]:
        """The longest beginning that fits."""
        fitting = []
        for file in files:
            room -= self._sizes[file]
            if room < 0:
                break
            fitting.append(file)
        return fitting
