"""Turns the many ways in which memory runs out into one error that says where, with which shape, and what would fit."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.interface import PackedBatch, TokenBatch
from orchestrator.run.failures import MicroBatchTooLargeError
from orchestrator.training.loader import StepBatch

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that an allocation failed (on a CPU torch raises RuntimeError)."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)
    )


def _shape(batch: TokenBatch | PackedBatch) -> str:
    samples = len(batch.grid)
    if isinstance(batch, PackedBatch):
        return f"{samples} packed samples, {len(batch.tokens)} tokens"
    return f"{samples} samples x {batch.tokens.shape[1]} tokens"


@contextmanager
def explained_memory(batch: StepBatch, rank: int) -> Iterator[None]:
    """Raises MicroBatchTooLargeError for an allocation that fails inside the ``with``, and half the samples to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        largest = max(batch.micro_batches, key=lambda micro: micro.tokens.numel())
        samples = len(largest.grid)
        advice = f"a micro-batch of {samples // 2} would need half" if samples > 1 else "even one sample is too large"
        raise MicroBatchTooLargeError(
            f"out of memory on rank {rank} in bucket {batch.bucket}, micro-batch of {_shape(largest)}: {advice}",
            samples // 2,
        ) from error
