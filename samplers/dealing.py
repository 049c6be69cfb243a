"""How the samples of every bucket are dealt to the P partitions, anew each epoch, without a list of samples.

A piece of a source consists of whole runs of S consecutive elements, aligned with the shards on disk, and of a head and
a tail that fill no run. A keyed permutation orders the runs of a piece; partition p gets the runs at places p, P + p,
2 P + p, ... as long as every partition gets one. What is left (fewer than P runs a piece, heads and tails) is laid end
to end and cut into P equal stretches, so that partitions differ by at most one sample and touch few shards. Inside a
(bucket, partition) a second keyed permutation orders the samples. All state is O(pieces).

A *coordinate* numbers the elements of a bucket as (what whole rounds give to one partition) followed by the leftovers
of the bucket; segments of consecutive coordinates map to elements by one linear rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplers.catalogue import Catalogue
from samplers.partition import Piece
from samplers.permutation import Integers, Keys, child_keys, permute
from samplers.plan import Bucket

ORDER_STREAM, RUN_STREAM, POOL_STREAM, ROTATION_STREAM = range(4)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Coordinates of one kind within a piece: coordinate z is element origin + run * width + z mod width, where run is
    the image of place first + (z // width) * stride (+ partition if shared) among ``runs`` runs."""

    size: int
    piece: int
    origin: int
    width: int
    runs: int
    first: int
    stride: int
    shared: bool


class Dealing:
    """Tables of one catalogue, its buckets and P partitions; every method is a pure function of its arguments."""

    def __init__(self, catalogue: Catalogue, buckets: Sequence[Bucket], partitions: int) -> None:
        self.partitions = partitions
        self._sources = _SourceTable(catalogue)
        pieces = [piece for bucket in buckets for piece in bucket.pieces]
        self._piece_source = np.asarray([piece.source for piece in pieces], np.int64)
        segments: list[_Segment] = []
        base, rounds, leftover = [], [], []
        number = coordinate = 0
        for bucket in buckets:
            whole, rest = self._segments_of(catalogue, bucket, number)
            segments += whole + rest
            base.append(coordinate)
            rounds.append(sum(segment.size for segment in whole))
            leftover.append(sum(segment.size for segment in rest))
            coordinate += rounds[-1] + leftover[-1]
            number += len(bucket.pieces)
        self._segments = segments
        self._starts = np.cumsum([0] + [segment.size for segment in segments])[:-1]
        self._columns = {
            field: np.asarray([getattr(segment, field) for segment in segments], np.int64)
            for field in ("piece", "origin", "width", "runs", "first", "stride", "shared")
        }
        self._base, self._rounds, self._leftover = (np.asarray(part, np.int64) for part in (base, rounds, leftover))
        self.stretch, self._longer = np.divmod(self._leftover, partitions)
        self._rotation = np.concatenate([[0], np.cumsum(self._longer)[:-1]])

    def samples(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """Samples a partition holds of a bucket in the epoch of the key; keys, bucket, partition broadcast."""
        place = self._place(keys, bucket, partition)
        return self._rounds[bucket] + self.stretch[bucket] + (place < self._longer[bucket])

    def elements(
        self, keys: Keys, bucket: Integers, partition: Integers, position: Integers, held: Integers
    ) -> tuple[Integers, Integers]:
        """Source numbers and sample indices of positions in the order of their (bucket, partition), all arrays [n].

        held: :meth:`samples` of each; positions at or beyond it wrap around, and where nothing is held the first
        leftover of the bucket stands in (both serve as fillers only).
        """
        order = child_keys(child_keys(child_keys(keys, ORDER_STREAM), bucket), partition)
        holds = held > 0
        image = permute(np.where(holds, position % np.maximum(held, 1), 0), np.maximum(held, 1), order)
        place = self._place(keys, bucket, partition)
        shift = place * self.stretch[bucket] + np.minimum(place, self._longer[bucket])
        coordinate = self._base[bucket] + image + np.where(holds & (image >= self._rounds[bucket]), shift, 0)
        return self._resolve(keys, partition, coordinate)

    def shards(self, key: Keys, bucket: int, partition: int) -> set[tuple[int, int]]:
        """(source, shard) pairs of which a partition reads samples of a bucket in the epoch of the key."""
        found: set[tuple[int, int]] = set()
        for number, places in self._places_of(key, bucket, partition):
            segment = self._segments[number]
            runs = permute(places, segment.runs, self._run_keys(key, np.asarray([segment.piece])))
            source = int(self._piece_source[segment.piece])
            first = segment.origin + runs * segment.width
            found |= self._sources.shards(source, first, first + segment.width)
        return found

    def _segments_of(
        self, catalogue: Catalogue, bucket: Bucket, number: int
    ) -> tuple[list[_Segment], list[_Segment]]:
        whole: list[_Segment] = []
        rest: list[_Segment] = []
        for offset, piece in enumerate(bucket.pieces):
            width = self._sources.run_width(piece.source)
            own, left = _split_piece(piece, number + offset, width, self.partitions)
            whole += own
            rest += left
        return whole, rest

    def _place(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """Which stretch of the leftovers a partition gets. Longer stretches go round the partitions over the buckets,
        so that totals over consecutive buckets differ by at most one."""
        turn = (child_keys(keys, ROTATION_STREAM) % np.uint64(self.partitions)).astype(np.int64)
        place: Integers = (partition - self._rotation[bucket] - turn) % self.partitions
        return place

    def _run_keys(self, keys: Keys, piece: Integers) -> Keys:
        return child_keys(child_keys(keys, RUN_STREAM), piece)

    def _resolve(self, keys: Keys, partition: Integers, coordinate: Integers) -> tuple[Integers, Integers]:
        segment = np.searchsorted(self._starts, coordinate, side="right") - 1
        piece, origin, width, runs, first, stride, shared = (column[segment] for column in self._columns.values())
        run, within = np.divmod(coordinate - self._starts[segment], width)
        image = permute(first + run * stride + shared * partition, runs, self._run_keys(keys, piece))
        source = self._piece_source[piece]
        return source, self._sources.indices(keys, source, origin + image * width + within)

    def _places_of(self, key: Keys, bucket: int, partition: int) -> list[tuple[int, Integers]]:
        """Numbers of the segments a partition reads of a bucket, each with the places of its runs."""
        one = np.asarray([bucket])
        place = int(self._place(key, one, np.asarray([partition]))[0])
        low = place * int(self.stretch[bucket]) + min(place, int(self._longer[bucket]))
        high = low + int(self.stretch[bucket]) + (place < self._longer[bucket])
        if high == low and not self._rounds[bucket]:
            low, high = 0, 1
        base, rounds = int(self._base[bucket]), int(self._rounds[bucket])
        found = []
        for begin, end in ((base, base + rounds), (base + rounds + low, base + rounds + high)):
            first = int(np.searchsorted(self._starts, begin, side="right")) - 1
            last = int(np.searchsorted(self._starts, end, side="left"))
            for number in range(first, last):
                places = self._touched(number, begin, end, partition)
                if places.size:
                    found.append((number, places))
        return found

    def _touched(self, number: int, begin: int, end: int, partition: int) -> Integers:
        segment, start = self._segments[number], int(self._starts[number])
        low, high = max(begin - start, 0), min(end - start, segment.size)
        if low >= high:
            return np.empty(0, np.int64)
        rows = np.arange(low // segment.width, (high - 1) // segment.width + 1)
        return segment.first + rows * segment.stride + segment.shared * partition


def _split_piece(piece: Piece, number: int, width: int, partitions: int) -> tuple[list[_Segment], list[_Segment]]:
    """Segments of whole rounds over the partitions, and segments left over: further runs, head and tail."""
    head = min(-piece.start % width, piece.count)
    runs, tail = divmod(piece.count - head, width)
    rounds, further = divmod(runs, partitions)
    origin = piece.start + head
    whole = _Segment(rounds * width, number, origin, width, runs, 0, partitions, True)
    rest = _Segment(further * width, number, origin, width, runs, rounds * partitions, 1, False)
    ends = [
        _Segment(size, number, start, max(size, 1), 1, 0, 0, False)
        for start, size in ((piece.start, head), (origin + runs * width, tail))
    ]
    return [part for part in (whole,) if part.size], [part for part in (rest, *ends) if part.size]


class _SourceTable:
    """From elements of sources to samples of sets or pools."""

    def __init__(self, catalogue: Catalogue) -> None:
        count = len(catalogue)
        self._width = np.ones(count, np.int64)
        self._rank = np.zeros(count, np.int64)
        self._rest = np.zeros(count, np.int64)
        self._blocks = np.asarray([source.count for source in catalogue], np.int64)
        self._pool = np.zeros(count, np.int64)
        self._shard_samples = np.asarray([source.shard_samples for source in catalogue], np.int64)
        self._samples = self._blocks.copy()
        for number, members in enumerate(catalogue.pools.values()):
            self._join(number, np.asarray(members))
        self._pooled = bool(catalogue.pools)

    def run_width(self, source: int) -> int:
        """Elements of a run: as many as come from one shard."""
        return max(int(self._shard_samples[source]) // int(self._width[source]), 1)

    def indices(self, keys: Keys, source: Integers, element: Integers) -> Integers:
        """Sample indices within the set or pool. A pool deals each block of V samples by a keyed permutation."""
        if not self._pooled:
            return element
        index = element.copy()
        shared = np.flatnonzero(self._width[source] > 1)
        who, block = source[shared], element[shared]
        size = np.where(block < self._blocks[who], self._width[who], self._rest[who])
        pool_keys = child_keys(child_keys(_at(keys, shared), POOL_STREAM), self._pool[who])
        index[shared] = block * self._width[who] + permute(self._rank[who], size, child_keys(pool_keys, block))
        return index

    def shards(self, source: int, first: Integers, stop: Integers) -> set[tuple[int, int]]:
        """(source, shard) pairs that element ranges [first, stop) may read."""
        width, samples = int(self._width[source]), int(self._shard_samples[source])
        low = first * width // samples
        high = (np.minimum(stop * width, self._samples[source]) - 1) // samples
        spread = np.arange(int((high - low).max()) + 1)
        numbers = np.minimum(low[:, None] + spread, high[:, None])
        return {(source, int(number)) for number in np.unique(numbers)}

    def _join(self, pool: int, members: NDArray[np.int64]) -> None:
        total = int(self._blocks[members].sum())
        self._width[members] = len(members)
        self._rank[members] = np.arange(len(members))
        self._rest[members] = total % len(members)
        self._blocks[members] = total // len(members)
        self._pool[members] = pool
        self._samples[members] = total


def _at(keys: Keys, places: NDArray[np.int64]) -> Keys:
    return keys if keys.size == 1 else keys[places]
