"""What a sample costs, and how many samples of a bucket train together."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from samplers.permutation import Integers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one sample that is padded to a length: its tokens, or the operations of the model on them.

    flops: pairs (length, operations of a forward pass of one sample), ascending in both; empty: the cost is the length.
    """

    flops: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_flops(cls, flops: Iterable[tuple[int, float]]) -> "Cost":
        """Operations by length, of pairs (length, operations) of samples in any order.

        Of samples of one length the most expensive counts, and a longer sample costs at least as much as a shorter one:
        a batch is padded to its longest sample.
        """
        most = 0.0
        table: dict[int, float] = {}
        for length, operations in sorted(flops):
            most = max(most, float(operations))
            table[length] = most
        return cls(tuple(table.items()))

    def of(self, lengths: Integers) -> Floats:
        """Cost float64 [n] of lengths int64 [n]; with ``flops``, of the lengths in its table only."""
        if not self.flops:
            return lengths.astype(np.float64)
        table = dict(self.flops)
        return np.asarray([table[length] for length in lengths.tolist()], np.float64)


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How many samples a slice of a bucket has over all ranks: a fixed number, or as many as a budget pays.

    partitions: the number is a multiple of them. fixed: the number; None for a budget, which is lowered to the samples
    there are. budget: most that a slice may cost. cost: of one sample. packed: every sample costs what it needs, so the
    budget is met on average; else each costs as much as the longest of its bucket. field: name of the choice in errors.
    Raises UserError for a fixed number that the partitions do not divide.
    """

    partitions: int
    fixed: int | None = None
    budget: float = 0.0
    cost: Cost = Cost()
    packed: bool = False
    field: str = "batch"

    def __post_init__(self) -> None:
        """Refuse what no bucket can have."""
        if self.partitions < 1:
            raise UserError(f"partitions is {self.partitions}", where="partitions", mend="use at least 1")
        if self.fixed is not None and (self.fixed < 1 or self.fixed % self.partitions):
            lower = max(self.fixed // self.partitions, 1) * self.partitions
            upper = lower if self.fixed < self.partitions else lower + self.partitions
            raise UserError(
                f"{self.fixed} samples are not a positive multiple of the {self.partitions} partitions",
                where=self.field,
                mend=f"use {lower}" if lower == upper else f"use {lower} or {upper}",
            )

    def of_runs(self, lengths: Integers, counts: Integers) -> Integers:
        """Samples of a slice for the buckets of the distinct lengths from each one to the last: int64 [D].

        lengths, counts: int64 [D], ascending lengths with their samples. 0 where such a bucket is too small for a slice
        or too expensive for the budget.
        """
        samples = counts[::-1].cumsum()[::-1]
        if self.fixed is not None:
            return np.where(samples >= self.fixed, self.fixed, 0)
        affordable = (self.budget // self._prices(lengths, counts)).astype(np.int64)
        sizes: Integers = np.minimum(affordable, samples) // self.partitions * self.partitions
        return sizes

    def of_bucket(self, lengths: Integers, counts: Integers, label: str) -> int:
        """Samples of a slice of one bucket. Raises UserError where it has none, with the label of the bucket."""
        size = int(self.of_runs(lengths, counts)[0])
        if size:
            return size
        needed = self.partitions * float(self._prices(lengths, counts)[0])
        if self.fixed is None and self.budget < needed:
            raise UserError(
                f"{self.budget:g} does not pay one sample of {label} for each of {self.partitions} partitions",
                where=self.field,
                mend=f"use at least {np.ceil(needed):.10g}",
            )
        raise UserError(
            f"holds {counts.sum()} samples, fewer than the batch of {self.fixed or self.partitions}",
            where=label,
            mend="use a smaller batch, fewer buckets or larger sets",
        )

    def _prices(self, lengths: Integers, counts: Integers) -> Floats:
        """Cost of one sample of the same buckets: the largest, or the mean where nothing is padded."""
        costs = self.cost.of(lengths)
        if not self.packed:
            return np.full(len(costs), costs[-1])
        means: Floats = (costs * counts)[::-1].cumsum()[::-1] / counts[::-1].cumsum()[::-1]
        return means
