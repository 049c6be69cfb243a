"""The order of an epoch: which slice of which lane comes at which step. Arithmetic over a few counts, no lists.

A *lane* is a queue of slices that train together: a bucket, or the mixed tails of a variant. A *phase* is a stretch of
an epoch over which the slices of some lanes are shuffled together. ``bucket``, ``global`` and ``alternating`` have one
phase an epoch with all lanes (HeterCSI, Algorithm 1 line 18); ``alternating_sets`` has a phase a set; ``sequential``
trains set after set, each for all epochs of the run: its passes q = set * epochs + e fill the epochs in turn, as many
passes an epoch as there are sets, so that every sample is seen exactly ``epochs`` times over the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from samplers.permutation import Integers, Keys, Stream, child_keys, permute


@dataclass(frozen=True)
class Phase:
    """lanes: their numbers. slices: slices of each. group: slices of a step. apart: a step holds one lane only."""

    lanes: Integers
    slices: Integers
    group: int
    apart: bool

    @cached_property
    def ends(self) -> Integers:
        """Cumulative units (steps if apart, else slices) of the lanes."""
        units = -(-self.slices // self.group) if self.apart else self.slices
        return np.cumsum(units)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.ends[-1]) if self.apart else -(-int(self.ends[-1]) // self.group)

    def units(self, steps: Integers, key: int) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Lane, slice number and filler flag of all slices of some steps, each int64 [len(steps) * group].

        Slices that complete a group are fillers: they repeat an earlier slice and count for nothing.
        """
        within = np.arange(self.group)
        total = int(self.ends[-1])
        if self.apart:
            unit = np.repeat(permute(steps, total, key), self.group)
            lane = self._column(unit)
            number = self._rank(unit, lane) * self.group + np.tile(within, len(steps))
            filler = number >= self.slices[lane]
            return self.lanes[lane], number % self.slices[lane], filler
        place = (steps[:, None] * self.group + within).ravel()
        unit = permute(place % total, total, key)
        lane = self._column(unit)
        return self.lanes[lane], self._rank(unit, lane), place >= total

    def _column(self, unit: Integers) -> Integers:
        column: Integers = np.searchsorted(self.ends, unit, side="right").astype(np.int64)
        return column

    def _rank(self, unit: Integers, lane: Integers) -> Integers:
        starts = np.concatenate([[0], self.ends[:-1]])
        rank: Integers = unit - starts[lane]
        return rank


@dataclass(frozen=True, slots=True)
class Unit:
    """Slices of consecutive steps, arrays [n]. key: the key of the pass a slice belongs to; pass_epoch: its number."""

    lane: Integers
    number: Integers
    filler: NDArray[np.bool_]
    key: Keys
    pass_epoch: Integers


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
        """Phases of an epoch in order, each with the number of the pass over its lanes."""
        phases, numbers = self._members(epoch)
        return [(self._phases[phase], int(number)) for phase, number in zip(phases, numbers, strict=True)]

    def pass_key(self, number: int) -> int:
        """Key of all draws of pass ``number`` over a set."""
        return int(child_keys(self._key, number)[0])

    def units(self, epoch: int, first: int, stop: int) -> Unit:
        """Slices of the steps [first, stop) of an epoch."""
        phases, numbers = self._members(epoch)
        ends = np.cumsum(self._steps[phases])
        parts = []
        for place in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
            phase, number = self._phases[phases[place]], int(numbers[place])
            start = int(ends[place]) - phase.steps
            steps = np.arange(max(first - start, 0), min(stop - start, phase.steps))
            key = self.pass_key(number)
            shuffle = child_keys(child_keys(key, Stream.STEPS), phase.lanes[0])[0]
            lane, rank, filler = phase.units(steps, int(shuffle))
            parts.append((lane, rank, filler, np.full(len(lane), key, np.uint64), np.full(len(lane), number)))
        return Unit(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _members(self, epoch: int) -> tuple[Integers, Integers]:
        """Numbers of the phases of an epoch and of the passes over them."""
        count = len(self._phases)
        if not self._sequential:
            return np.arange(count), np.full(count, epoch)
        return np.divmod(epoch * count + np.arange(count), self._epochs)
