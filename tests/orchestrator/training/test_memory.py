"""Exhausted memory says where, with which shape, and what would fit; it costs the bucket it is of."""

import pytest
import torch

from models.interface import PackedBatch, TokenBatch
from orchestrator.run.failures import MicroBatchTooLargeError
from orchestrator.training.loader import MicroBatch
from orchestrator.training.memory import explained_memory


def padded(samples: int, bucket: int) -> MicroBatch:
    batch = TokenBatch(
        tokens=torch.zeros(samples, 10, 3), elements=None, lengths=torch.ones(samples), grid=torch.ones(samples, 3),
        keys=torch.zeros(samples), weight=torch.ones(samples), variant=0,
    )  # fmt: skip
    return MicroBatch(batch, bucket, epoch=0)


def packed(samples: int, bucket: int) -> MicroBatch:
    batch = PackedBatch(
        tokens=torch.zeros(900, 3), elements=None, grid=torch.ones(samples, 3), grids=(), keys=torch.zeros(samples),
        weight=torch.ones(samples), variant=0,
    )  # fmt: skip
    return MicroBatch(batch, bucket, epoch=0)


@pytest.mark.parametrize(
    ("micro", "message", "fitting"),
    [
        (padded(6, 2), r"rank 5 in bucket 2, micro-batch of 6 samples x 10 tokens: a micro-batch of 3 would need", 3),
        (packed(5, 1), r"rank 5 in bucket 1, micro-batch of 5 packed samples, 900 tokens: a micro-batch of 2", 2),
        (padded(1, 0), r"in bucket 0, micro-batch of 1 samples x 10 tokens: even one sample is too large", 0),
    ],
)
def test_exhausted_memory_is_explained(micro: MicroBatch, message: str, fitting: int) -> None:
    with pytest.raises(MicroBatchTooLargeError, match=message) as caught, explained_memory(micro, 5):
        torch.empty(2**50)
    assert (caught.value.fitting, caught.value.bucket) == (fitting, micro.bucket)


def test_what_onednn_says_counts_and_other_errors_stay_as_they_are() -> None:
    with pytest.raises(MicroBatchTooLargeError), explained_memory(padded(4, 0), 0):
        raise RuntimeError("could not create a primitive")
    with pytest.raises(RuntimeError, match="something else"), explained_memory(padded(4, 0), 0):
        raise RuntimeError("something else")
