"""Turns the many ways in which memory runs out into one error that says where, with which shape, and what would fit."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.interface import PackedBatch, TokenBatch
from orchestrator.data.stored_batch import StoredBatch
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


def _shape(batch: TokenBatch | PackedBatch | StoredBatch) -> str:
    samples = len(batch.grid)
    if isinstance(batch, StoredBatch):
        if batch.preparation.packed:
            return _packed_shape(samples, sum(part.samples * part.tokens for part in batch.parts))
        return _padded_shape(samples, max(part.tokens for part in batch.parts))
    if isinstance(batch, PackedBatch):
        return _packed_shape(samples, len(batch.tokens))
    return _padded_shape(samples, batch.tokens.shape[1])


def _packed_shape(samples: int, tokens: int) -> str:
    return f"{samples} packed samples, {tokens} tokens"


def _padded_shape(samples: int, longest: int) -> str:
    return f"{samples} samples x {longest} tokens"
