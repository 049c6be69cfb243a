"""Turns the many ways in which memory runs out into one error that says where, with which shape, and what would fit."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.interface import PackedBatch, TokenBatch
from orchestrator.run.failures import MicroBatchTooLargeError, is_out_of_memory
from orchestrator.training.loader import MicroBatch


@contextmanager
def explained_memory(micro: MicroBatch, rank: int) -> Iterator[None]:
    """Around the work on a micro-batch.

    Raises:
        MicroBatchTooLargeError: an allocation fails; half of the samples are to be tried instead.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        samples = len(micro.samples.grid)
        advice = f"a micro-batch of {samples // 2} would need half" if samples > 1 else "even one sample is too large"
        raise MicroBatchTooLargeError(
            f"out of memory on rank {rank} in bucket {micro.bucket}, micro-batch of {_shape(micro.samples)}: {advice}",
            samples // 2,
            micro.bucket,
        ) from error


def _shape(batch: TokenBatch | PackedBatch) -> str:
    samples = len(batch.grid)
    if isinstance(batch, PackedBatch):
        return f"{samples} packed samples, {len(batch.tokens)} tokens"
    return f"{samples} samples x {batch.tokens.shape[1]} tokens"
