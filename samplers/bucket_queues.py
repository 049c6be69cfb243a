"""Lanes: queues of slices, one a bucket, and with mixed tails one a variant for what fills no slice of its bucket."""

from collections.abc import Sequence

import numpy as np

from samplers.assignment import Dealing, Places
from samplers.permutation import Integers, Keys
from samplers.plan import Bucket


class Lanes:
    """Counts of every lane, buckets first, and where a lane's samples come from.

    slices, share, label, variant: int64 [lanes], slices of an epoch, samples of a slice in one partition, bucket that
    the slices are labelled with, and granularity.
    """

    def __init__(self, buckets: Sequence[Bucket], dealing: Dealing, partitions: int, mixed: bool) -> None:
        self._dealing = dealing
        self._mixed = mixed
        samples = np.asarray([bucket.samples for bucket in buckets], np.int64)
        batch = np.asarray([bucket.batch_size for bucket in buckets], np.int64)
        self._queued = samples // batch if mixed else -(-samples // batch)
        self._tails = _tails(buckets, samples - self._queued * batch) if mixed else []
        longest = np.asarray([members[-1] for members in self._tails], np.int64)
        remainders = [int((samples - self._queued * batch)[members].sum()) for members in self._tails]
        self.label = np.concatenate([np.arange(len(buckets)), longest])
        self.share = batch[self.label] // partitions
        self.slices = np.concatenate([self._queued, -(-np.asarray(remainders, np.int64) // batch[longest])])
        self.variant = np.asarray([buckets[label].variant for label in self.label], np.int64)

    def buckets_of(self, lanes: Integers) -> list[int]:
        """Buckets whose samples some lanes hold."""
        return [int(lane) for lane in lanes if lane < len(self._queued)]

    def places(self, keys: Keys, lane: Integers, number: Integers, partitions: Integers) -> Places:
        """Places of all samples of some slices in some partitions, slice by slice and partition by partition.

        keys, lane, number: arrays [slices], key of the epoch, lane and number within it. partitions: int64 [m].
        """
        slice_of = np.repeat(np.arange(len(lane)), len(partitions))
        share = self.share[lane[slice_of]]
        ends = np.cumsum(share)
        cell = np.repeat(np.arange(len(slice_of)), share)
        position = (number[slice_of] * share - (ends - share))[cell] + np.arange(ends[-1])
        bucket = self.label[lane[slice_of]]
        partition = np.tile(partitions, len(lane))
        held = self._dealing.samples(keys[slice_of], bucket, partition)
        valid = position < held[cell]
        places = Places(keys[slice_of], bucket, partition, held, cell, position, valid)
        for tail, members in enumerate(self._tails, start=len(self._queued)):
            chosen = np.flatnonzero((lane == tail)[slice_of[cell]])
            if chosen.size:
                places = self._with_tails(places, members, chosen)
        return places

    def _with_tails(self, places: Places, members: Integers, chosen: Integers) -> Places:
        """The chosen samples found among the remainders of the members, laid end to end; each gets its own cell."""
        keys, partition = places.keys[places.cell[chosen]], places.partition[places.cell[chosen]]
        held = self._dealing.samples(keys[:, None], members, partition[:, None])
        queued = self._queued[members] * self.share[members]
        ends = np.cumsum(held - queued, axis=1)
        total = ends[:, -1]
        valid, cell, position = places.valid.copy(), places.cell.copy(), places.position.copy()
        valid[chosen] = position[chosen] < total
        wrapped = position[chosen] % np.maximum(total, 1)
        column = np.minimum((ends <= wrapped[:, None]).sum(axis=1), len(members) - 1)
        row = np.arange(len(chosen))
        begin = (ends - held + queued)[row, column]
        cell[chosen] = len(places.bucket) + row
        position[chosen] = queued[column] + wrapped - begin
        return Places(
            keys=np.concatenate([places.keys, keys]),
            bucket=np.concatenate([places.bucket, members[column]]),
            partition=np.concatenate([places.partition, partition]),
            held=np.concatenate([places.held, held[row, column]]),
            cell=cell,
            position=position,
            valid=valid,
        )


def _tails(buckets: Sequence[Bucket], remainders: Integers) -> list[Integers]:
    """Buckets of each variant that leave a remainder, in ascending order of length."""
    variants = sorted({bucket.variant for bucket in buckets})
    tails = [
        np.asarray([n for n, bucket in enumerate(buckets) if bucket.variant == variant and remainders[n]], np.int64)
        for variant in variants
    ]
    return [members for members in tails if members.size]
