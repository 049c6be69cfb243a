"""What a step is over all ranks: what its loss is divided by, and how much work it is.

That depends on every sample of the global batch, and which samples those are takes the longer the more ranks there are.
So ranks share the work: of a *block* of steps each rank looks at every W-th, one exchange hands all of it to all, and
a rank's work for a step stays that of its own share of the samples, whatever the number of ranks. Every number is
computed on one rank, by the same arithmetic as if there were no others, so sharing changes none.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.flops import valid_flops
from orchestrator.data.reader import TrainingData
from samplers.load import step_imbalance
from samplers.measures import source_entropy
from samplers.schedule import Schedule

BLOCK_STEPS = 64
"""Steps of a block at least, so that exchanges are rare."""
LEAD_STEPS = 2
"""Steps before the end of a block at which the exchange for the next one begins: a device ends it while they train."""

Cursor = tuple[int, int]
"""Epoch, and step within it."""
Rows = NDArray[np.float64]
Exchange = Callable[[Rows], Callable[[], Rows]]
"""Collective: begins to exchange rows [n, fields]; what it returns waits for those of all ranks, [ranks, n, fields]."""


@dataclass(frozen=True, slots=True)
class GlobalStep:
    """Of one step; the fields of ``StepBatch``."""

    denominators: NDArray[np.float64]
    weight: float
    true_samples: int
    valid_tokens: int
    valid_flops: float
    source_entropy: float
    imbalance: float

    @classmethod
    def of(cls, data: TrainingData, schedule: Schedule, cursor: Cursor, world: int) -> "GlobalStep":
        """From all samples of a step on so many ranks."""
        slices = schedule.global_step(*cursor)
        source = np.concatenate([slice_.source for slice_ in slices])
        weight = np.concatenate([slice_.weight for slice_ in slices])
        return cls(
            denominators=data.denominators(slices),
            weight=schedule.step_weight(slices),
            true_samples=sum(int((slice_.weight > 0).sum()) for slice_ in slices),
            valid_tokens=data.valid_tokens(slices),
            valid_flops=valid_flops(data.flops, slices),
            source_entropy=source_entropy(schedule.catalogue, source, weight).bits,
            imbalance=step_imbalance(schedule, slices, world),
        )

    def to_row(self) -> Rows:
        """Float64 [fields]; counts fit."""
        rest = (self.weight, self.true_samples, self.valid_tokens, self.valid_flops)
        return np.asarray([*rest, self.source_entropy, self.imbalance, *self.denominators], np.float64)

    @staticmethod
    def fields(tasks: int) -> int:
        """Of a row."""
        return 6 + tasks

    @classmethod
    def from_row(cls, row: Rows) -> "GlobalStep":
        """Inverse of ``to_row``."""
        weight, samples, tokens, flops, entropy, imbalance, *denominators = row.tolist()
        return cls(np.asarray(denominators), weight, int(samples), int(tokens), flops, entropy, imbalance)


def cursors(schedule: Schedule, epoch: int, step: int) -> Iterator[Cursor]:
    """All steps of a run from a cursor on."""
    first = ((epoch, later) for later in range(step, schedule.steps(epoch))) if epoch < schedule.epochs else ()
    rest = ((other, later) for other in range(epoch + 1, schedule.epochs) for later in range(schedule.steps(other)))
    return chain(first, rest)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Ranks that share the work, and how they exchange it; ``ALONE`` does all of it."""

    rank: int
    world: int
    exchange: Exchange

    @property
    def block(self) -> int:
        """Steps of a block: equally many for every rank; a rank alone has no exchange to make rare."""
        return 2 * LEAD_STEPS if self.world == 1 else self.world * -(-BLOCK_STEPS // self.world)


ALONE = Sharing(0, 1, lambda rows: lambda: rows[None])


def global_steps(
    steps: Iterator[Cursor], compute: Callable[[Cursor], GlobalStep], pool: Executor, tasks: int, sharing: Sharing
) -> Iterator[GlobalStep]:
    """In the order of ``steps``, which must be the same on all ranks.

    Collective for the first step and shortly before the end of a block, on the thread that asks. A rank's part of a
    block is computed in ``pool`` while the block before it trains. tasks: of the model.
    """

    def look(block: tuple[Cursor, ...]) -> list[Future[GlobalStep]]:
        return [pool.submit(compute, cursor) for cursor in block[sharing.rank :: sharing.world]]

    def begin(block: tuple[Cursor, ...], own: list[Future[GlobalStep]]) -> Callable[[], Rows]:
        rows = np.zeros((-(-len(block) // sharing.world), GlobalStep.fields(tasks)))
        for row, future in zip(rows, own, strict=False):
            row[:] = future.result().to_row()
        return sharing.exchange(rows)

    # The first block is one step a rank, so that training begins soon.
    block = tuple(islice(steps, sharing.world))
    exchanged = begin(block, look(block)) if block else None
    while exchanged is not None:
        following = tuple(islice(steps, sharing.block))
        own = look(following)
        in_order = exchanged().swapaxes(0, 1).reshape(-1, GlobalStep.fields(tasks))
        exchanged = None
        for number, row in enumerate(in_order[: len(block)]):
            if number == max(len(block) - LEAD_STEPS, 0) and following:
                exchanged = begin(following, own)
            yield GlobalStep.from_row(row)
        block = following
