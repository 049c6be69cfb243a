"""Prepares the batches of the next steps in background threads while the current one trains."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.interface import PackedBatch, TokenBatch
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.global_steps import ALONE, GlobalStep, Sharing, cursors, global_steps
from orchestrator.data.reader import TrainingData
from orchestrator.data.stored_batch import StoredBatch
from orchestrator.shard_cache.placement import Placement
from samplers.batches import ScheduledBatches
from samplers.schedule import Slice

HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one rank trains on in one forward and backward pass."""

    samples: TokenBatch | PackedBatch | StoredBatch
    bucket: int
    """Number in the plan."""
    epoch: int
    """Epoch from which the masks are drawn."""

    def on(self, device: torch.device) -> TokenBatch | PackedBatch:
        """The batch on a device, which makes it there where the loader has left that to it; nothing is waited for."""
        samples = self.samples.to(device, non_blocking=True)
        return samples.prepared() if isinstance(samples, StoredBatch) else samples


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one rank trains on in one optimizer step."""

    epoch: int
    step: int
    """Step within the epoch."""
    micro_batches: tuple[MicroBatch, ...]
    denominators: NDArray[np.float64]
    """What the loss sums [tasks] of the whole global batch are divided by: masked tokens, or samples that mask any."""
    weight: float
    """Of the step in its epoch: true samples over the nominal ones, 1 where there are no fillers."""
    true_samples: int
    """Of the whole global batch, without fillers."""
    valid_tokens: int
    """Tokens of the true samples of the whole global batch."""
    padded_tokens: int
    """Tokens this rank computes, padding and fillers included."""
    valid_flops: float
    """Operations that the true samples of the whole global batch need, forward and backward."""
    computed_flops: float
    """Operations of this rank, padding and fillers included."""
    source_entropy: float
    """Bits; of the sets that the global batch draws from."""
    imbalance: float
    """By how much the rank with the most tokens exceeds the mean, as a share."""
    bucket: int
    """Of its first slice."""
    slices: tuple[Slice, ...]
    """Of this rank, as scheduled."""

    @property
    def where(self) -> str:
        """Which step it is, for messages."""
        return f"epoch {self.epoch}, step {self.step} of the epoch, bucket {self.bucket}"


class StepLoader:
    """Iterates over :class:`StepBatch` in schedule order, ``prefetch`` steps ahead.

    The cursor of ``batches`` moves only when the consumer acknowledges a step, so a checkpoint counts what was
    trained, not what was prepared. micro_batch: most samples of a micro-batch, or one number a bucket. device: the
    rank's; a GPU makes the batches itself, of samples that the threads read into page-locked memory. sharing: with
    which ranks this one shares the work of looking at whole global batches; iterating is collective then.
    """

    def __init__(
        self,
        data: TrainingData,
        batches: ScheduledBatches,
        placement: Placement,
        *,
        micro_batch: int | tuple[int, ...],
        threads: int,
        prefetch: int,
        device: torch.device = HOST,
        sharing: Sharing = ALONE,
    ) -> None:
        self._data = replace(data, store=placement.store)
        self._batches = batches
        self._placement = placement
        self._micro_batch = micro_batch
        self._prefetch = prefetch
        self._sharing = sharing
        self.device = _numbered(device)
        self._feeds_device = device.type != "cpu"
        noisy = self._feeds_device and data.snr_db is not None
        self._tables = NormalTables.on(self.device) if noisy else None
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="loader", initializer=use_device, initargs=(self.device,)
        )

        # Of its own: behind the batches of later steps a step would wait for all of them.
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="global-steps")

    def __enter__(self) -> "StepLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pool in (self._pool, self._counting):
            pool.shutdown(wait=False, cancel_futures=True)

    def __iter__(self) -> Iterator[StepBatch]:
        """From the cursor to the end of the run."""
        waiting: deque[Future[partial[StepBatch]]] = deque()
        known = self._global_steps()
        begun: int | None = None
        for epoch, step, slices in self._batches:
            if epoch != begun:
                self._placement.begin_epoch(epoch, step)
                begun = epoch
            waiting.append(self._pool.submit(self._prepare, epoch, step, slices))
            if len(waiting) > self._prefetch:
                yield waiting.popleft().result()(**_fields(next(known)))
        while waiting:
            yield waiting.popleft().result()(**_fields(next(known)))

    def _global_steps(self) -> Iterator[GlobalStep]:
        data, schedule, world = self._data, self._batches.schedule, self._batches.world
        return global_steps(
            cursors(schedule, *self._batches.cursor),
            lambda cursor: GlobalStep.of(data, schedule, cursor, world),
            self._counting,
            len(data.spec.tasks),
            self._sharing,
        )

    def _prepare(self, epoch: int, step: int, slices: tuple[Slice, ...]) -> partial[StepBatch]:
        """This rank's share; what the step is over all ranks is still missing."""
        micro_slices = [micro for slice_ in slices for micro in split_slice(slice_, self._most(slice_))]
        with self._placement.step(epoch, step, slices):
            micro_batches = tuple(map(self._micro_batch_of, micro_slices))
        return partial(
            StepBatch,
            epoch=epoch,
            step=step,
            micro_batches=micro_batches,
            padded_tokens=sum(map(self._data.padded_tokens, micro_slices)),
            computed_flops=sum(map(self._data.computed_flops, micro_slices)),
            bucket=slices[0].bucket,
            slices=slices,
        )

    def _micro_batch_of(self, slice_: Slice) -> MicroBatch:
        if self._feeds_device:
            samples = self._data.stored_batch(slice_, self._tables, pinned=True)
            return MicroBatch(samples, slice_.bucket, slice_.epoch)
        return MicroBatch(self._data.batch(slice_), slice_.bucket, slice_.epoch)

    def _most(self, slice_: Slice) -> int:
        return self._micro_batch if isinstance(self._micro_batch, int) else self._micro_batch[slice_.bucket]


def _fields(whole: GlobalStep) -> dict[str, Any]:
    """Of the same names in a ``StepBatch``."""
    return {field.name: getattr(whole, field.name) for field in fields(whole)}


def use_device(device: torch.device) -> None:
    """What a thread does that makes page-locked memory: otherwise it would open a context on the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _numbered(device: torch.device) -> torch.device:
    """The same with its number: a new thread has a current device of its own."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def split_slice(slice_: Slice, most: int) -> list[Slice]:
    """Near-equal parts of at most ``most`` samples; the same number of parts on every rank."""
    count = -(-len(slice_.index) // most)
    chunks = zip(
        np.array_split(slice_.source, count),
        np.array_split(slice_.index, count),
        np.array_split(slice_.weight, count),
        strict=True,
    )
    return [replace(slice_, source=source, index=index, weight=weight) for source, index, weight in chunks]
