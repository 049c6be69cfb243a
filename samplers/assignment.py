"""How the samples of every bucket are dealt to the P partitions, anew each epoch, without a list of samples.

A piece of a source is *arranged*: its whole runs of S consecutive elements, which are the shards on disk, in the order
of a keyed permutation, then its head and tail that fill no run. Each partition gets an equal share of every piece: runs
in turn as long as there is one for each (whole rounds), then an equal stretch of what is left. The fewer than P samples
a piece that no equal share holds are laid end to end over the bucket and cut into P stretches. So partitions differ by
at most one sample, all hold the same mixture of sources, and a partition touches few shards. Inside a (bucket,
partition) a second keyed permutation orders the samples. All state is O(pieces).

*Coordinates* number what one partition holds of a bucket, followed by the rest of the bucket; *segments* of consecutive
coordinates lie in one piece and map to its arrangement by one linear rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplers.catalogue import Catalogue
from samplers.partition import Piece
from samplers.permutation import Integers, Keys, Stream, child_keys, permute, quotient
from samplers.plan import Bucket
from samplers.pools import SourceTable


@dataclass(frozen=True, slots=True)
class _Segment:
    """Coordinate z of a segment is place ``first + z + z // period * jump + turn * stride`` of its piece's arrangement,
    where turn numbers the partitions."""

    size: int
    piece: int
    first: int
    period: int
    jump: int
    stride: int
    whole_runs: bool = False


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """A piece: ``runs`` runs of ``width`` elements from ``origin`` on, ``head`` elements before them, others after."""

    source: int
    origin: int
    width: int
    runs: int
    head: int
    count: int

    def segments(self, number: int, partitions: int) -> tuple[_Segment, _Segment, _Segment]:
        """Whole rounds of runs, equal stretches of what they leave, and the rest."""
        round_size = partitions * self.width
        left = self.runs // partitions * round_size
        stretch, rest = divmod(self.count - left, partitions)
        return (
            _Segment(left // partitions, number, 0, self.width, round_size - self.width, self.width, True),
            _Segment(stretch, number, left, max(stretch, 1), 0, stretch),
            _Segment(rest, number, left + stretch * partitions, max(rest, 1), 0, 0),
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Samples as positions in the order of a (bucket, partition) of an epoch.

    keys, bucket, partition, held: arrays [cells], the epoch's key and the samples that the (bucket, partition) holds.
    cell, position, valid: arrays [n], the cell of each sample, its position there, False for fillers.
    """

    keys: Keys
    bucket: Integers
    partition: Integers
    held: Integers
    cell: Integers
    position: Integers
    valid: NDArray[np.bool_]

    def wrapped(self) -> Integers:
        """Positions, those of fillers taken modulo what is held."""
        if self.valid.all():
            return self.position
        wrapped: Integers = self.position % np.maximum(self.held, 1)[self.cell]
        return wrapped


class Dealing:
    """Tables of one catalogue, its buckets and P partitions; every method is a pure function of its arguments."""

    def __init__(self, catalogue: Catalogue, buckets: Sequence[Bucket], partitions: int) -> None:
        self.partitions = partitions
        self._sources = SourceTable(catalogue)
        pieces = [self._arranged(piece) for bucket in buckets for piece in bucket.pieces]
        self._arrangements = pieces
        self._segments: list[_Segment] = []
        shared, rest = np.zeros(len(buckets), np.int64), np.zeros(len(buckets), np.int64)
        number = 0
        for place, bucket in enumerate(buckets):
            parts = [pieces[other].segments(other, partitions) for other in range(number, number + len(bucket.pieces))]
            self._segments += [part for column in zip(*parts, strict=True) for part in column if part.size]
            shared[place] = sum(whole.size + stretch.size for whole, stretch, _ in parts)
            rest[place] = sum(last.size for _, _, last in parts)
            number += len(bucket.pieces)
        self._starts = np.cumsum([0] + [segment.size for segment in self._segments])[:-1]
        self._segment_columns = _columns(self._segments, ("piece", "first", "period", "jump", "stride"))
        self._piece_columns = _columns(pieces, ("source", "origin", "width", "runs", "head"))
        self._base = np.cumsum(shared + rest) - shared - rest
        self._shared = shared
        self._stretch, self._longer = np.divmod(rest, partitions)
        self._rotation = np.cumsum(self._longer) - self._longer

    def samples(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """Samples a partition holds of a bucket in the epoch of the key; keys, bucket, partition broadcast."""
        place = self._place(keys, bucket, partition)
        counts: Integers = self._shared[bucket] + self._stretch[bucket] + (place < self._longer[bucket])
        return counts

    def elements(self, places: Places) -> tuple[Integers, Integers]:
        """Source numbers and sample indices of places, int64 [n] each.

        Positions at or beyond what is held wrap around, and where nothing is held the first leftover of the bucket
        stands in (both serve as fillers only).
        """
        keys, bucket, partition, cell = places.keys, places.bucket, places.partition, places.cell
        held = np.maximum(places.held, 1)
        order = child_keys(child_keys(child_keys(keys, Stream.SAMPLES), bucket), partition)
        image = permute(places.wrapped(), held[cell], order[cell])
        place = self._place(keys, bucket, partition)
        shift = place * self._stretch[bucket] + np.minimum(place, self._longer[bucket])
        shift[places.held == 0] = 0
        coordinate = self._base[bucket][cell] + image
        coordinate += shift[cell] * (image >= self._shared[bucket][cell])
        return self._resolve(keys[cell], place[cell], coordinate)

    def shards(self, key: Keys, bucket: int, partition: int) -> set[tuple[int, int]]:
        """(source, shard) pairs of which a partition reads samples of a bucket in the epoch of the key."""
        turn = int(self._place(key, np.asarray([bucket]), np.asarray([partition]))[0])
        found: set[tuple[int, int]] = set()
        for begin, end in self._coordinates(bucket, turn):
            first = int(np.searchsorted(self._starts, begin, side="right")) - 1
            last = int(np.searchsorted(self._starts, end, side="left"))
            for number in range(first, last):
                found |= self._shards_of_segment(key, number, begin, end, turn)
        return found

    def _arranged(self, piece: Piece) -> _Arrangement:
        width = self._sources.run_width(piece.source)
        head = min(-piece.start % width, piece.count)
        runs = (piece.count - head) // width
        return _Arrangement(piece.source, piece.start + head, width, runs, head, piece.count)

    def _place(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """The turn of a partition. Longer stretches of the rest go round the partitions over the buckets, so that
        totals over consecutive buckets differ by at most one."""
        turn = (child_keys(keys, Stream.TURNS) % np.uint64(self.partitions)).astype(np.int64)
        place: Integers = (partition - self._rotation[bucket] - turn) % self.partitions
        return place

    def _resolve(self, keys: Keys, turn: Integers, coordinate: Integers) -> tuple[Integers, Integers]:
        segment = np.searchsorted(self._starts, coordinate, side="right") - 1
        piece, first, period, jump, stride = (column[segment] for column in self._segment_columns)
        inside = coordinate - self._starts[segment]
        arranged = first + inside + quotient(inside, period) * jump + turn * stride
        return self._piece_columns[0][piece], self._unarrange(keys, piece, arranged)

    def _unarrange(self, keys: Keys, piece: Integers, arranged: Integers) -> Integers:
        """Samples at places of the arrangements of pieces."""
        source, origin, width, runs, head = (column[piece] for column in self._piece_columns)
        run = quotient(arranged, width)
        size = np.maximum(runs, 1)
        image = permute(np.minimum(run, size - 1), size, child_keys(child_keys(keys, Stream.RUNS), piece))
        beyond = arranged - runs * width
        ends = np.where(beyond < head, beyond - head, arranged - head)
        element = origin + np.where(beyond < 0, arranged + (image - run) * width, ends)
        return self._sources.indices(keys, source, element)

    def _coordinates(self, bucket: int, turn: int) -> list[tuple[int, int]]:
        """Ranges of coordinates that the partition of this turn holds, or the one that stands in for nothing."""
        base, shared = int(self._base[bucket]), int(self._shared[bucket])
        low = turn * int(self._stretch[bucket]) + min(turn, int(self._longer[bucket]))
        high = low + int(self._stretch[bucket]) + (turn < self._longer[bucket])
        if high == low and not shared:
            low, high = 0, 1
        ranges = [(base, base + shared), (base + shared + low, base + shared + high)]
        return [(begin, end) for begin, end in ranges if begin < end]

    def _shards_of_segment(self, key: Keys, number: int, begin: int, end: int, turn: int) -> set[tuple[int, int]]:
        segment, start = self._segments[number], int(self._starts[number])
        if segment.whole_runs:
            # The first and the last element of a run tell its shards: a run is no longer than a shard.
            firsts = np.arange(0, segment.size, segment.period)
            inside = np.concatenate([firsts, firsts + segment.period - 1])
        else:
            inside = np.arange(max(begin - start, 0), min(end - start, segment.size))
        arranged = segment.first + inside + inside // segment.period * segment.jump + turn * segment.stride
        source = self._arrangements[segment.piece].source
        piece = np.full(len(arranged), segment.piece)
        return self._sources.shards(source, self._unarrange(np.broadcast_to(key, len(arranged)), piece, arranged))


def _columns(rows: Sequence[_Segment] | Sequence[_Arrangement], fields: tuple[str, ...]) -> list[Integers]:
    return [np.asarray([getattr(row, field) for row in rows], np.int64) for field in fields]
