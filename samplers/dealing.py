"""Which partition computes which samples of a packed slice: equally many each, of costs as equal as can be.

Drawn from the partitions, the samples of a slice cost one of them more than another, and all wait for the dearest. So
they are dealt: in descending order of cost, one to each partition a round, the dearest to the one with the least so far
(longest processing time first, Graham 1969, with equal counts), then the dearest partition swaps samples with the
cheapest. That is a function of the samples of the slice alone: which of them train together, and when, stays the same.

Samples are dealt among *neighbours*, consecutive partitions that have a bounded number of samples together, so that
what a rank looks at for its own share does not grow with the number of ranks. Costs are integers: their sums, and so
the deal, are the same on every machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from samplers.permutation import Integers

MOST_SAMPLES = 2048
"""Of a slice that are dealt together: at 16 a partition 128 partitions."""
COST_BITS = 40
"""Of the largest cost: sums of millions of samples fit 63 bits."""
SWAP_ROUNDS = 9
TOLERANCE = 100
"""Swaps end once no partition is over the mean by more than a share of one in so many."""


def whole_costs(costs: Iterable[float]) -> tuple[int, ...]:
    """The same ratios as whole numbers of at most ``COST_BITS`` bits; at least 1 where there is a cost."""
    exact = list(costs)
    largest = max(exact, default=0.0)
    factor = 2.0**COST_BITS / largest if largest >= 2.0**COST_BITS else 1.0
    return tuple(max(round(cost * factor), int(cost > 0)) for cost in exact)


@dataclass(frozen=True, slots=True)
class Dealer:
    """costs: int64 [sources], of a sample. within: so many consecutive partitions may exchange samples."""

    costs: Integers
    within: int

    def neighbours(self, share: int) -> int:
        """Partitions that deal among themselves at ``share`` samples each: a divisor of ``within``."""
        most = max(MOST_SAMPLES // share, 1)
        return max(count for count in range(1, min(most, self.within) + 1) if self.within % count == 0)

    def members(self, share: int, partitions: Integers) -> Integers:
        """The partitions and all their neighbours, ascending."""
        count = self.neighbours(share)
        first = np.unique(partitions // count) * count
        members: Integers = (first[:, None] + np.arange(count)).ravel()
        return members

    def chosen(self, costs: Integers, share: int, partitions: Integers) -> Integers:
        """Places int64 [slices * len(partitions) * share] of the samples that some partitions get, in ascending order
        within each.

        costs: int64 [slices * members * share] of the samples that the ``members`` of the partitions draw, in their
        order, 0 for fillers.
        """
        count = self.neighbours(share)
        blocks, block_of = np.unique(partitions // count, return_inverse=True)
        rows = costs.reshape(-1, count * share)
        dealt = deal(rows, count) + (np.arange(len(rows)) * (count * share))[:, None, None]
        dealt = dealt.reshape(-1, len(blocks), count, share)
        chosen: Integers = dealt[:, block_of, partitions % count].ravel()
        return chosen


def deal(costs: Integers, partitions: int) -> Integers:
    """Columns int64 [rows, partitions, share] that each partition gets of every row of costs int64 [rows, samples],
    ascending within a partition; those it drew itself, in a row where that is as good.

    The samples of a row are those of the partitions one after the other, equally many each.
    """
    count, samples = costs.shape
    drawn = np.broadcast_to(np.arange(samples).reshape(1, partitions, -1), (count, partitions, samples // partitions))
    dealt = np.array(drawn)
    if partitions == 1:
        return dealt
    before = costs.reshape(drawn.shape).sum(axis=2).max(axis=1)
    uneven = np.flatnonzero(before * partitions > costs.sum(axis=1))
    if uneven.size:
        columns, loads = _in_rounds(costs[uneven], partitions)
        _swap(columns, loads, costs[uneven])
        better = loads.max(axis=1) < before[uneven]
        dealt[uneven[better]] = np.sort(columns[better], axis=2)
    return dealt


def _in_rounds(costs: Integers, partitions: int) -> tuple[Integers, Integers]:
    """Columns [rows, partitions, share], and loads int64 [rows, partitions]: the dearest to the least loaded."""
    rows, samples = costs.shape
    order = np.argsort(-costs, axis=1, kind="stable").reshape(rows, -1, partitions)
    columns = np.empty_like(order)
    loads = np.zeros((rows, partitions), np.int64)
    row = np.arange(rows)[:, None]
    for turn in range(samples // partitions):
        least_first = np.argsort(loads, axis=1, kind="stable")
        columns[row, turn, least_first] = order[:, turn]
        loads[row, least_first] += costs[row, order[:, turn]]
    return columns.swapaxes(1, 2), loads


def _swap(columns: Integers, loads: Integers, costs: Integers) -> None:
    """In place: the dearest partitions swap a sample with the cheapest ones, the second dearest with the second
    cheapest and so on (later each with another cheap one), where that brings both nearer to each other."""
    total = loads.sum(axis=1)
    for turn in range(SWAP_ROUNDS):
        most = loads.max(axis=1) * loads.shape[1]
        rows = np.flatnonzero((most - total) * TOLERANCE > total)
        if not rows.size:
            return
        pairs = loads.shape[1] // 2
        by_load = np.argsort(loads[rows], axis=1, kind="stable")
        dear, cheap = by_load[:, : -pairs - 1 : -1], np.roll(by_load[:, :pairs], turn // 3, axis=1)
        row = rows[:, None]
        mine, theirs = costs[row[..., None], columns[row, dear]], costs[row[..., None], columns[row, cheap]]
        gap = loads[row, dear] - loads[row, cheap]
        # After moving x the gap is |gap - 2x|: the best exchange is the one nearest to half of it.
        left = np.abs(gap[..., None, None] - 2 * (mine[..., :, None] - theirs[..., None, :])).reshape(*gap.shape, -1)
        best = left.argmin(axis=2)
        pair = np.nonzero(np.take_along_axis(left, best[..., None], axis=2)[..., 0] < gap)
        own, other = np.divmod(best[pair], columns.shape[2])
        row, dear, cheap = rows[pair[0]], dear[pair], cheap[pair]
        moved = mine[*pair, own] - theirs[*pair, other]
        columns[row, dear, own], columns[row, cheap, other] = columns[row, cheap, other], columns[row, dear, own]
        loads[row, dear] -= moved
        loads[row, cheap] += moved
