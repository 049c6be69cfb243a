"""Schedules: which samples at which step on which rank, a pure function with random access to every step.

A step is ``slices`` slices; a slice is one bucket's batch over all ranks, so every rank holds the same bucket in the
same micro-step. A slice draws equally many samples from each of P canonical partitions; rank r of W serves the
partitions p with p mod W = r. The global batch therefore does not depend on W, and a run resumes on any W that divides
P. A packed slice can be dealt: neighbouring partitions exchange samples, still equally many each, until their costs are
alike (``samplers.dealing``); which samples train together stays the same.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from samplers.assignment import Assignment, Positions
from samplers.bucket_queues import BucketQueues
from samplers.catalogue import Catalogue
from samplers.choices import MIXES, SHUFFLES, TAILS, check_choice
from samplers.dealing import Dealer
from samplers.order import Order, Phase, SliceNumbers
from samplers.permutation import Integers, root_key
from samplers.plan import Plan

BLOCK_SAMPLES = 8192
"""That a rank looks at together, in consecutive steps."""
DEALT_BLOCK_SAMPLES = 65536
"""Likewise where slices are dealt, of which a rank looks at more samples than its own."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Samples of one micro-step on one rank (or of all ranks, ordered by partition).

    bucket: number in the plan; for a mixed tail the longest bucket it draws from, so that it is never longer than that
    bucket. variant: granularity of all samples. source: int32 [n] numbers in the catalogue. index: int64 [n] samples of
    the set or pool. weight: float32 [n], 1, or 0 for fillers. epoch: how often the sample was scheduled before; it is
    the epoch of the run except for strategy ``sequential``.
    """

    bucket: int
    variant: int
    source: NDArray[np.int32]
    index: NDArray[np.int64]
    weight: NDArray[np.float32]
    epoch: int


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run.

    catalogue, plan: what to train on. seed: of every draw. partitions: P. epochs: of the run. slices: slices of an
    optimizer step (gradient accumulation). mix: ``step`` lets the slices of a step come from different buckets,
    ``none`` does not. tails: ``fill`` completes the last slice of every bucket with weight-0 fillers; ``mixed`` carries
    the remainders of all buckets of a variant into common slices first (strategies bucket, global and packed).
    shuffle: ``shard`` keeps the samples of a shard in one partition, ``sample`` assigns each one on its own.
    costs: of a sample of each source, by which packed slices are dealt; None: partitions keep what they draw. within:
    so many consecutive partitions may exchange samples, a divisor of them; None: all. Neither changes a global batch.

    Every sample occurs with weight 1 exactly once an epoch (``sequential``: ``epochs`` times a run). Time and memory of
    a step do not grow with the number of samples. Raises UserError for choices that do not fit the plan.
    """

    catalogue: Catalogue
    plan: Plan
    seed: int
    partitions: int
    epochs: int
    slices: int = 1
    mix: str = "step"
    tails: str = "fill"
    shuffle: str = "shard"
    costs: tuple[int, ...] | None = None
    within: int | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit the plan."""
        for field, least in (("partitions", 1), ("epochs", 1), ("slices", 1)):
            value = getattr(self, field)
            if value < least:
                raise UserError(f"{field} is {value}", where="schedule", mend=f"use at least {least}")
        check_choice("mix", self.mix, MIXES)
        check_choice("tails", self.tails, TAILS)
        check_choice("shuffle", self.shuffle, SHUFFLES)
        if self.tails == "mixed" and self.plan.strategy not in ("bucket", "global", "packed"):
            raise UserError(
                f"strategy {self.plan.strategy} keeps sets apart", where="tails mixed", mend="use tails fill"
            )
        assert self.costs is None or len(self.costs) == len(self.catalogue), "one cost a source"
        assert self.partitions % (self.within or 1) == 0, "partitions exchange samples in equal blocks"
        _check_plan(self.catalogue, self.plan)
        for number, bucket in enumerate(self.plan.buckets):
            if bucket.batch_size % self.partitions:
                raise UserError(
                    f"batch of {bucket.batch_size} is no multiple of the {self.partitions} partitions",
                    where=f"bucket {number}",
                    mend="plan with the same number of partitions",
                )

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        self.check_cursor(epoch, 0)
        return self._order.steps(epoch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self._order.total_steps()

    def slices_of_buckets(self) -> NDArray[np.int64]:
        """Slices that each bucket fills in one pass over its samples: int64 [buckets]; mixed tails are not counted."""
        slices: NDArray[np.int64] = self._queues.slices[: len(self.plan.buckets)]
        return slices

    @property
    def nominal_samples(self) -> float:
        """Samples of an optimizer step without fillers; where buckets have batches of other sizes, the mean."""
        queues = self._queues
        return self.slices * self.partitions * float(queues.slices @ queues.share) / float(queues.slices.sum())

    def step_weight(self, step: Sequence[Slice]) -> float:
        """What the mean loss of a step counts for: its true samples over the nominal ones.

        So every sample of an epoch weighs 1 / nominal, also in a step with few. step: the slices of all ranks.
        """
        return sum(float((held.weight > 0).sum()) for held in step) / self.nominal_samples

    @property
    def scheduled_samples(self) -> int:
        """Samples of one pass over all sets, fillers included; slices that only complete a step are not counted."""
        return int((self._queues.slices * self._queues.share).sum()) * self.partitions

    def global_step(self, epoch: int, step: int) -> tuple[Slice, ...]:
        """All samples of a step, ordered by partition."""
        return self.rank_step(epoch, step, 0, 1)

    def rank_step(self, epoch: int, step: int, rank: int, world: int) -> tuple[Slice, ...]:
        """Samples of one rank in a step: the partitions p with p mod world = rank, in ascending order."""
        return self.rank_steps(epoch, step, step + 1, rank, world)[0]

    def rank_steps(self, epoch: int, first: int, stop: int, rank: int, world: int) -> list[tuple[Slice, ...]]:
        """The steps [first, stop) of an epoch for one rank; a few thousand samples at once cost least."""
        self.check_world(world, rank)
        self.check_cursor(epoch, first)
        self.check_cursor(epoch, stop - 1)
        slices = self._resolved(self._order.slices(epoch, first, stop), np.arange(rank, self.partitions, world))
        return [tuple(slices[at : at + self.slices]) for at in range(0, len(slices), self.slices)]

    def iterate(self, epoch: int, step: int, rank: int, world: int) -> Iterator[tuple[int, int, tuple[Slice, ...]]]:
        """(epoch, step, slices) of one rank from a cursor to the end of the run, computed in blocks."""
        while epoch < self.epochs:
            steps = self.steps(epoch)
            while step < steps:
                stop = min(step + self._block(world), steps)
                for slices in self.rank_steps(epoch, step, stop, rank, world):
                    yield epoch, step, slices
                    step += 1
            epoch, step = epoch + 1, 0

    def shards_of(self, epoch: int, partitions: Sequence[int]) -> NDArray[np.int64]:
        """Shards that some partitions read in an epoch: int64 [n, 2] of (source, shard of the set or pool), sorted.

        Shard s holds the samples [s * shard_samples, (s + 1) * shard_samples). Where slices are dealt, those that the
        partitions may read: they do not get a sample of each.
        """
        self.check_cursor(epoch, 0)
        found: set[tuple[int, int]] = set()
        members = self._neighbours(np.asarray(partitions, np.int64)).tolist()
        for phase, number in self._order.passes(epoch):
            key = np.asarray([self._order.pass_key(number)], np.uint64)
            for bucket in self._queues.buckets_of(phase.queues):
                for member in members:
                    found |= self._assignment.shards(key, bucket, member)
        return np.asarray(sorted(found), np.int64).reshape(-1, 2)

    def check_world(self, world: int, rank: int = 0) -> None:
        """Raises UserError unless the world size divides the partitions (naming the nearest that do)."""
        if world < 1 or self.partitions % world:
            raise UserError(
                f"{world} ranks do not divide the {self.partitions} partitions",
                where="world size",
                mend=f"use {_nearest_divisors(self.partitions, world)}, or other partitions for a new run",
            )
        assert 0 <= rank < world, f"rank {rank} of {world}"

    def check_cursor(self, epoch: int, step: int) -> None:
        """Raises UserError for a cursor outside the run."""
        if not 0 <= epoch < self.epochs:
            raise UserError(f"epoch {epoch} of {self.epochs} epochs", where="cursor", mend="raise epochs to go on")
        steps = self._order.steps(epoch)
        if not 0 <= step < steps:
            raise UserError(f"step {step} is beyond the {steps} steps of epoch {epoch}", where="cursor")

    def settings(self) -> dict[str, Any]:
        """Everything that decides the global batches, as plain data: equal settings give equal steps."""
        settings: dict[str, Any] = {
            "catalogue": self.catalogue.fingerprint,
            "plan": self.plan.fingerprint,
            "seed": self.seed,
            "partitions": self.partitions,
            "slices": self.slices,
            "mix": self.mix,
            "tails": self.tails,
        }
        if self.plan.strategy == "sequential":
            settings["epochs"] = self.epochs
        if any(
            self.catalogue[members[0]].count != self.catalogue[members[-1]].count
            for members in self.catalogue.pools.values()
        ):
            settings["pools"] = "the short block moves"
        if self.shuffle != "shard":
            settings["shuffle"] = self.shuffle
        return settings

    @cached_property
    def _assignment(self) -> Assignment:
        return Assignment(self.catalogue, self.plan.buckets, self.partitions, self.shuffle == "shard")

    @cached_property
    def _queues(self) -> BucketQueues:
        return BucketQueues(self.plan.buckets, self._assignment, self.partitions, self.tails == "mixed")

    @cached_property
    def _order(self) -> Order:
        phases = [
            Phase(members, self._queues.slices[members], self.slices, self.mix == "none")
            for members in self._queues_of_phases()
        ]
        key = root_key("wavetrain schedule", self.seed)
        return Order(phases, self.epochs, key, self.plan.strategy == "sequential")

    def _queues_of_phases(self) -> list[Integers]:
        if self.plan.strategy not in ("alternating_sets", "sequential"):
            return [np.arange(len(self._queues.slices))]
        names = [self.catalogue[bucket.spans[0].source].name for bucket in self.plan.buckets]
        return [
            np.asarray([number for number, other in enumerate(names) if other == name]) for name in dict.fromkeys(names)
        ]

    @cached_property
    def _dealer(self) -> Dealer | None:
        if self.costs is None or not self.plan.packed:
            return None
        return Dealer(np.asarray(self.costs, np.int64), self.within or self.partitions)

    def _neighbours(self, partitions: Integers) -> Integers:
        """The partitions and all that deal samples with them in any slice, each once, ascending."""
        if self._dealer is None:
            return np.unique(partitions)
        found = [self._dealer.members(share, partitions) for share in np.unique(self._queues.share).tolist()]
        return np.unique(np.concatenate(found))

    def _resolved(self, slices: SliceNumbers, partitions: Integers) -> list[Slice]:
        """The samples of some slices in some partitions."""
        if self._dealer is None:
            positions = self._queues.positions(slices.key, slices.queue, slices.number, partitions)
            return self._found(slices, positions, len(partitions))
        shares = self._queues.share[slices.queue]
        resolved: dict[int, Slice] = {}
        for share in np.unique(shares).tolist():
            rows = np.flatnonzero(shares == share)
            same = slices.at(rows)
            positions = self._dealt(self._dealer, same, share, partitions)
            resolved |= zip(rows.tolist(), self._found(same, positions, len(partitions)), strict=True)
        return [resolved[row] for row in range(len(shares))]

    def _dealt(self, dealer: Dealer, slices: SliceNumbers, share: int, partitions: Integers) -> Positions:
        """Positions of the samples that some partitions get of slices of ``share`` samples a partition."""
        members = dealer.members(share, partitions)
        positions = self._queues.positions(slices.key, slices.queue, slices.number, members)
        true = positions.valid & ~np.repeat(slices.filler, share * len(members))
        costs = np.where(true, dealer.costs[self._assignment.sources(positions)], 0)
        return positions.at(dealer.chosen(costs, share, partitions))

    def _found(self, slices: SliceNumbers, positions: Positions, partitions: int) -> list[Slice]:
        """The samples at the positions of some slices, equally many for each of so many partitions."""
        queues = self._queues
        numbers, index = self._assignment.elements(positions)
        source = numbers.astype(np.int32)
        sizes = queues.share[slices.queue] * partitions
        weight = (positions.valid & ~np.repeat(slices.filler, sizes)).astype(np.float32)
        bounds = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        labels, variants = queues.label[slices.queue].tolist(), queues.variant[slices.queue].tolist()
        return [
            Slice(bucket, variant, source[low:high], index[low:high], weight[low:high], epoch)
            for bucket, variant, low, high, epoch in zip(
                labels, variants, bounds[:-1], bounds[1:], slices.pass_epoch.tolist(), strict=True
            )
        ]

    def _block(self, world: int) -> int:
        """Steps whose samples a rank looks at together."""
        share, own = int(self._queues.share.max()), np.arange(0, self.partitions, world)
        if self._dealer is None:
            return max(BLOCK_SAMPLES // (share * len(own) * self.slices), 1)
        return max(DEALT_BLOCK_SAMPLES // (share * len(self._dealer.members(share, own)) * self.slices), 1)


def _check_plan(catalogue: Catalogue, plan: Plan) -> None:
    planned = Counter[int]()
    for bucket in plan.buckets:
        for span in bucket.spans:
            planned[span.source] += span.count
    if planned != Counter({number: source.count for number, source in enumerate(catalogue)}):
        raise UserError("holds other samples than the catalogue", where="plan", mend="plan again for this catalogue")


def _nearest_divisors(total: int, value: int) -> str:
    divisors = [divisor for divisor in range(1, total + 1) if total % divisor == 0]
    below = [divisor for divisor in divisors if divisor < value]
    above = [divisor for divisor in divisors if divisor > value]
    return " or ".join(str(divisor) for divisor in (*below[-1:], *above[:1]))
