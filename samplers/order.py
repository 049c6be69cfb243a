"""The order of an epoch: which slice of which queue comes at which step. Arithmetic over a few counts, no lists.

A *queue* holds the slices of a bucket, or the mixed tails of a variant. A *phase* is a stretch of an epoch over which
the slices of some queues are shuffled together. ``bucket``, ``global`` and ``alternating`` have one phase an epoch with
all queues (HeterCSI, Algorithm 1 line 18); ``alternating_sets`` has a phase a set; ``sequential`` trains set after set,
each for all epochs of the run: its passes q = set * epochs + e fill the epochs in turn, as many passes an epoch as
there are sets, so that every sample is seen exactly ``epochs`` times over the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from samplers.permutation import Integers, Keys, Stream, child_keys, permute


@dataclass(frozen=True)
class Phase:
    """queues: their numbers. slices: slices of each. group: slices of a step. apart: a step holds one queue only.

    What is shuffled, an *entry*, is a step if steps hold one queue only, else a slice.
    """

    queues: Integers
    slices: Integers
    group: int
    apart: bool

    @cached_property
    def ends(self) -> Integers:
        """Cumulative entries of the queues."""
        entries = -(-self.slices // self.group) if self.apart else self.slices
        return np.cumsum(entries)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.ends[-1]) if self.apart else -(-int(self.ends[-1]) // self.group)

    def slices_of(self, steps: Integers, key: int) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Queue, slice number and filler flag of all slices of some steps, each int64 [len(steps) * group].

        Slices that complete a group are fillers: they repeat an earlier slice and count for nothing.
        """
        within = np.arange(self.group)
        total = int(self.ends[-1])
        if self.apart:
            entry = np.repeat(permute(steps, total, key), self.group)
            column = self._column(entry)
            number = self._rank(entry, column) * self.group + np.tile(within, len(steps))
            filler = number >= self.slices[column]
            return self.queues[column], number % self.slices[column], filler
        position = (steps[:, None] * self.group + within).ravel()
        entry = permute(position % total, total, key)
        column = self._column(entry)
        return self.queues[column], self._rank(entry, column), position >= total

    def _column(self, entry: Integers) -> Integers:
        column: Integers = np.searchsorted(self.ends, entry, side="right").astype(np.int64)
        return column

    def _rank(self, entry: Integers, column: Integers) -> Integers:
        starts = np.concatenate([[0], self.ends[:-1]])
        rank: Integers = entry - starts[column]
        return rank


@dataclass(frozen=True, slots=True)
class SliceNumbers:
    """Slices of consecutive steps, arrays [n]: queue of each, number in the queue, whether it counts for nothing.

    key: of the pass that a slice belongs to. pass_epoch: number of that pass.
    """

    queue: Integers
    number: Integers
    filler: NDArray[np.bool_]
    key: Keys
    pass_epoch: Integers

    def at(self, rows: Integers) -> "SliceNumbers":
        """Some of them, int64 [m]."""
        queue, number, filler = self.queue[rows], self.number[rows], self.filler[rows]
        return SliceNumbers(queue, number, filler, self.key[rows], self.pass_epoch[rows])


class Order:
    """The phases of every epoch of a run."""

    def __init__(self, phases: Sequence[Phase], epochs: int, key: int, sequential: bool) -> None:
        self._phases = tuple(phases)
        self._epochs = epochs
        self._key = key
        self._sequential = sequential
        self._steps = np.asarray([phase.steps for phase in phases], np.int64)

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return int(self._steps[self._members(epoch)[0]].sum())

    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self._steps.sum()) * self._epochs

    def passes(self, epoch: int) -> list[tuple[Phase, int]]:
        """Phases of an epoch in order, each with the number of the pass over its queues."""
        phases, numbers = self._members(epoch)
        return [(self._phases[phase], int(number)) for phase, number in zip(phases, numbers, strict=True)]

    def pass_key(self, number: int) -> int:
        """Key of all draws of pass ``number`` over a set."""
        return int(child_keys(self._key, number)[0])

    def slices(self, epoch: int, first: int, stop: int) -> SliceNumbers:
        """Slices of the steps [first, stop) of an epoch."""
        phases, numbers = self._members(epoch)
        ends = np.cumsum(self._steps[phases])
        rows = []
        for column in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
            phase, number = self._phases[phases[column]], int(numbers[column])
            start = int(ends[column]) - phase.steps
            steps = np.arange(max(first - start, 0), min(stop - start, phase.steps))
            key = self.pass_key(number)
            shuffle = child_keys(child_keys(key, Stream.STEPS), phase.queues[0])[0]
            queue, rank, filler = phase.slices_of(steps, int(shuffle))
            rows.append((queue, rank, filler, np.full(len(queue), key, np.uint64), np.full(len(queue), number)))
        return SliceNumbers(*(np.concatenate(field) for field in zip(*rows, strict=True)))

    def _members(self, epoch: int) -> tuple[Integers, Integers]:
        """Numbers of the phases of an epoch and of the passes over them."""
        count = len(self._phases)
        if not self._sequential:
            return np.arange(count), np.full(count, epoch)
        return np.divmod(epoch * count + np.arange(count), self._epochs)
