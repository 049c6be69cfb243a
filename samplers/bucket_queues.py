"""Queues of slices: one a bucket, and with mixed tails one a variant for the samples that fill no slice of theirs."""

from collections.abc import Sequence

import numpy as np

from samplers.assignment import Assignment, Positions
from samplers.permutation import Integers, Keys
from samplers.plan import Bucket


class BucketQueues:
    """How long every queue is, those of buckets first, and where its samples come from.

    slices, share, label, variant: int64 [queues], slices of an epoch, samples of a slice in one partition, bucket that
    the slices are labelled with, and granularity.
    """

    def __init__(self, buckets: Sequence[Bucket], assignment: Assignment, partitions: int, mixed: bool) -> None:
        self._assignment = assignment
        self._mixed = mixed
        samples = np.asarray([bucket.samples for bucket in buckets], np.int64)
        batch = np.asarray([bucket.batch_size for bucket in buckets], np.int64)
        self._full = samples // batch if mixed else -(-samples // batch)
        self._tails = _tails(buckets, samples - self._full * batch) if mixed else []
        longest = np.asarray([members[-1] for members in self._tails], np.int64)
        remainders = [int((samples - self._full * batch)[members].sum()) for members in self._tails]
        self.label = np.concatenate([np.arange(len(buckets)), longest])
        self.share = batch[self.label] // partitions
        self.slices = np.concatenate([self._full, -(-np.asarray(remainders, np.int64) // batch[longest])])
        self.variant = np.asarray([buckets[label].variant for label in self.label], np.int64)

    def buckets_of(self, queues: Integers) -> list[int]:
        """Buckets whose samples some queues hold."""
        return [int(queue) for queue in queues if queue < len(self._full)]

    def positions(self, keys: Keys, queue: Integers, number: Integers, partitions: Integers) -> Positions:
        """Positions of all samples of some slices in some partitions, slice by slice and partition by partition.

        keys, queue, number: arrays [slices], key of the epoch, queue and number within it. partitions: int64 [m].
        """
        slice_of = np.repeat(np.arange(len(queue)), len(partitions))
        share = self.share[queue[slice_of]]
        ends = np.cumsum(share)
        cell = np.repeat(np.arange(len(slice_of)), share)
        position = (number[slice_of] * share - (ends - share))[cell] + np.arange(ends[-1])
        bucket = self.label[queue[slice_of]]
        partition = np.tile(partitions, len(queue))
        held = self._assignment.samples(keys[slice_of], bucket, partition)
        valid = position < held[cell]
        positions = Positions(keys[slice_of], bucket, partition, held, cell, position, valid)
        for tail, members in enumerate(self._tails, start=len(self._full)):
            chosen = np.flatnonzero((queue == tail)[slice_of[cell]])
            if chosen.size:
                positions = self._with_tails(positions, members, chosen)
        return positions

    def _with_tails(self, positions: Positions, members: Integers, chosen: Integers) -> Positions:
        """The chosen samples taken from the remainders of the members, one after the other; each gets its own cell."""
        keys, partition = positions.keys[positions.cell[chosen]], positions.partition[positions.cell[chosen]]
        held = self._assignment.samples(keys[:, None], members, partition[:, None])
        in_full_slices = self._full[members] * self.share[members]
        ends = np.cumsum(held - in_full_slices, axis=1)
        total = ends[:, -1]
        valid, cell, position = positions.valid.copy(), positions.cell.copy(), positions.position.copy()
        valid[chosen] = position[chosen] < total
        wrapped = position[chosen] % np.maximum(total, 1)
        column = np.minimum((ends <= wrapped[:, None]).sum(axis=1), len(members) - 1)
        row = np.arange(len(chosen))
        begin = (ends - held + in_full_slices)[row, column]
        cell[chosen] = len(positions.bucket) + row
        position[chosen] = in_full_slices[column] + wrapped - begin
        return Positions(
            keys=np.concatenate([positions.keys, keys]),
            bucket=np.concatenate([positions.bucket, members[column]]),
            partition=np.concatenate([positions.partition, partition]),
            held=np.concatenate([positions.held, held[row, column]]),
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
