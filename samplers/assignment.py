"""Which samples of every bucket each of the P partitions gets in an epoch, computed without a list of samples.

The elements of a span are put in a new order, its *arrangement*: first its whole runs of S consecutive elements, which
are the shards on disk, in the order of a keyed permutation, then its head and tail that fill no run. Each partition
gets an equal share of every span: one run after the other as long as there is one for each partition (whole rounds),
then an equal stretch of what is left. Fewer than P samples of each span remain; they are put in one row for the whole
bucket, which is cut into P stretches. So partitions differ by at most one sample, all hold the same mixture of sources,
and a partition reads few shards. Inside a (bucket, partition) a second keyed permutation orders the samples. Memory is
O(spans). Where shards need not stay whole, a run is a single element: any two samples are equally likely to meet.

*Coordinates* number the samples that one partition holds of a bucket, followed by the remaining ones of the bucket. An
*interval* is a range of coordinates that belong to one span and map to its arrangement by one linear rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samplers.catalogue import Catalogue
from samplers.partition import Span
from samplers.permutation import Integers, Keys, Stream, child_keys, permute, quotient
from samplers.plan import Bucket
from samplers.pools import SourceTable


@dataclass(frozen=True, slots=True)
class _Interval:
    """Coordinate z of an interval is position ``first + z + z // period * jump + turn * stride`` in the arrangement of
    its span, where turn numbers the partitions."""

    size: int
    span: int
    first: int
    period: int
    jump: int
    stride: int
    whole_runs: bool = False


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """A span: ``runs`` runs of ``width`` elements from ``origin`` on, ``head`` elements before them, others after."""

    source: int
    origin: int
    width: int
    runs: int
    head: int
    count: int

    def intervals(self, number: int, partitions: int) -> tuple[_Interval, _Interval, _Interval]:
        """Whole rounds of runs, equal stretches of what they leave, and the rest."""
        round_size = partitions * self.width
        left = self.runs // partitions * round_size
        stretch, rest = divmod(self.count - left, partitions)
        return (
            _Interval(left // partitions, number, 0, self.width, round_size - self.width, self.width, True),
            _Interval(stretch, number, left, max(stretch, 1), 0, stretch),
            _Interval(rest, number, left + stretch * partitions, max(rest, 1), 0, 0),
        )


@dataclass(frozen=True, slots=True)
class Positions:
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

    def at(self, chosen: Integers) -> "Positions":
        """Some of the samples, int64 [m]."""
        return replace(self, cell=self.cell[chosen], position=self.position[chosen], valid=self.valid[chosen])


class Assignment:
    """Tables of one catalogue, its buckets and P partitions; every method is a pure function of its arguments.

    whole_shards: whether consecutive samples of a shard go to the same partition.
    """

    def __init__(self, catalogue: Catalogue, buckets: Sequence[Bucket], partitions: int, whole_shards: bool) -> None:
        self.partitions = partitions
        self._whole_shards = whole_shards
        self._sources = SourceTable(catalogue)
        arrangements = [self._arranged(span) for bucket in buckets for span in bucket.spans]
        self._arrangements = arrangements
        self._intervals: list[_Interval] = []
        shared, rest = np.zeros(len(buckets), np.int64), np.zeros(len(buckets), np.int64)
        first = 0
        for number, bucket in enumerate(buckets):
            members = range(first, first + len(bucket.spans))
            rows = [arrangements[member].intervals(member, partitions) for member in members]
            self._intervals += [interval for column in zip(*rows, strict=True) for interval in column if interval.size]
            shared[number] = sum(whole.size + stretch.size for whole, stretch, _ in rows)
            rest[number] = sum(last.size for _, _, last in rows)
            first += len(bucket.spans)
        self._starts = np.cumsum([0] + [interval.size for interval in self._intervals])[:-1]
        self._interval_columns = _columns(self._intervals, ("span", "first", "period", "jump", "stride"))
        self._span_columns = _columns(arrangements, ("source", "origin", "width", "runs", "head"))
        self._base = np.cumsum(shared + rest) - shared - rest
        self._shared = shared
        self._stretch, self._longer = np.divmod(rest, partitions)
        self._rotation = np.cumsum(self._longer) - self._longer

    def samples(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """Samples a partition holds of a bucket in the epoch of the key; keys, bucket, partition broadcast."""
        turn = self._turn(keys, bucket, partition)
        counts: Integers = self._shared[bucket] + self._stretch[bucket] + (turn < self._longer[bucket])
        return counts

    def elements(self, positions: Positions) -> tuple[Integers, Integers]:
        """Source numbers and sample indices at some positions, int64 [n] each.

        Positions at or beyond what is held wrap around; where nothing is held, the first remaining sample of the bucket
        is used. Both are fillers.
        """
        turn, coordinate = self._located(positions)
        cell = positions.cell
        return self._resolve(positions.keys[cell], turn[cell], coordinate)

    def sources(self, positions: Positions) -> Integers:
        """Source numbers alone, int64 [n]: the same at about half the cost."""
        _, coordinate = self._located(positions)
        interval = np.searchsorted(self._starts, coordinate, side="right") - 1
        source: Integers = self._span_columns[0][self._interval_columns[0]][interval]
        return source

    def shards(self, key: Keys, bucket: int, partition: int) -> set[tuple[int, int]]:
        """(source, shard) pairs of which a partition reads samples of a bucket in the epoch of the key."""
        turn = int(self._turn(key, np.asarray([bucket]), np.asarray([partition]))[0])
        found: set[tuple[int, int]] = set()
        for begin, end in self._coordinates(bucket, turn):
            first = int(np.searchsorted(self._starts, begin, side="right")) - 1
            last = int(np.searchsorted(self._starts, end, side="left"))
            for number in range(first, last):
                found |= self._shards_of_interval(key, number, begin, end, turn)
        return found

    def _arranged(self, span: Span) -> _Arrangement:
        width = self._sources.run_width(span.source) if self._whole_shards else 1
        head = min(-span.start % width, span.count)
        # The end of a pool moves from epoch to epoch: its elements fill no run, so that a run lies in one stretch.
        last = min(span.start + span.count, self._sources.fixed_elements(span.source))
        runs = max(last - span.start - head, 0) // width
        return _Arrangement(span.source, span.start + head, width, runs, head, span.count)

    def _turn(self, keys: Keys, bucket: Integers, partition: Integers) -> Integers:
        """The turn of a partition. Longer stretches of the rest go round the partitions over the buckets, so that
        totals over consecutive buckets differ by at most one."""
        first = (child_keys(keys, Stream.TURNS) % np.uint64(self.partitions)).astype(np.int64)
        turn: Integers = (partition - self._rotation[bucket] - first) % self.partitions
        return turn

    def _located(self, positions: Positions) -> tuple[Integers, Integers]:
        """Turns of the cells and coordinates of the samples at some positions."""
        keys, bucket, partition, cell = positions.keys, positions.bucket, positions.partition, positions.cell
        held = np.maximum(positions.held, 1)
        order = child_keys(child_keys(child_keys(keys, Stream.SAMPLES), bucket), partition)
        image = permute(positions.wrapped(), held[cell], order[cell])
        turn = self._turn(keys, bucket, partition)
        shift = turn * self._stretch[bucket] + np.minimum(turn, self._longer[bucket])
        shift[positions.held == 0] = 0
        coordinate = self._base[bucket][cell] + image
        coordinate += shift[cell] * (image >= self._shared[bucket][cell])
        return turn, coordinate

    def _resolve(self, keys: Keys, turn: Integers, coordinate: Integers) -> tuple[Integers, Integers]:
        interval = np.searchsorted(self._starts, coordinate, side="right") - 1
        span, first, period, jump, stride = (column[interval] for column in self._interval_columns)
        inside = coordinate - self._starts[interval]
        arranged = first + inside + quotient(inside, period) * jump + turn * stride
        return self._span_columns[0][span], self._unarrange(keys, span, arranged)

    def _unarrange(self, keys: Keys, span: Integers, arranged: Integers) -> Integers:
        """Samples at positions in the arrangements of spans."""
        source, origin, width, runs, head = (column[span] for column in self._span_columns)
        run = quotient(arranged, width)
        size = np.maximum(runs, 1)
        image = permute(np.minimum(run, size - 1), size, child_keys(child_keys(keys, Stream.RUNS), span))
        beyond = arranged - runs * width
        ends = np.where(beyond < head, beyond - head, arranged - head)
        element = origin + np.where(beyond < 0, arranged + (image - run) * width, ends)
        return self._sources.indices(keys, source, element)

    def _coordinates(self, bucket: int, turn: int) -> list[tuple[int, int]]:
        """Ranges of coordinates that the partition of this turn holds; where it holds none, that of its filler."""
        base, shared = int(self._base[bucket]), int(self._shared[bucket])
        low = turn * int(self._stretch[bucket]) + min(turn, int(self._longer[bucket]))
        high = low + int(self._stretch[bucket]) + (turn < self._longer[bucket])
        if high == low and not shared:
            low, high = 0, 1
        ranges = [(base, base + shared), (base + shared + low, base + shared + high)]
        return [(begin, end) for begin, end in ranges if begin < end]

    def _shards_of_interval(self, key: Keys, number: int, begin: int, end: int, turn: int) -> set[tuple[int, int]]:
        interval, start = self._intervals[number], int(self._starts[number])
        if interval.whole_runs:
            # A run is no longer than a shard, so its first and its last element name all its shards.
            firsts = np.arange(0, interval.size, interval.period)
            inside = np.concatenate([firsts, firsts + interval.period - 1])
        else:
            inside = np.arange(max(begin - start, 0), min(end - start, interval.size))
        arranged = interval.first + inside + inside // interval.period * interval.jump + turn * interval.stride
        source = self._arrangements[interval.span].source
        span = np.full(len(arranged), interval.span)
        return self._sources.shards(source, self._unarrange(np.broadcast_to(key, len(arranged)), span, arranged))


def _columns(rows: Sequence[_Interval] | Sequence[_Arrangement], fields: tuple[str, ...]) -> list[Integers]:
    return [np.asarray([getattr(row, field) for row in rows], np.int64) for field in fields]
