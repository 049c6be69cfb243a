"""Arithmetic of batches by the model's own formula: what the samples need, and what their layout computes.

Operations that activation checkpointing repeats are not counted.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samplers.schedule import Slice

PASSES_OF_TRAINING = 3.0
"""A backward pass takes twice the operations of its forward pass."""


def valid_flops(forward: NDArray[np.float64], slices: Sequence[Slice]) -> float:
    """Operations to train once on the true samples; forward: of one forward pass of a sample of each source."""
    return PASSES_OF_TRAINING * float(sum(slice_.weight @ forward[slice_.source] for slice_ in slices))


def padded_flops(forward: NDArray[np.float64], slice_: Slice) -> float:
    """Operations of one padded batch: every sample, fillers too, costs as much as the largest."""
    return PASSES_OF_TRAINING * len(slice_.source) * float(forward[slice_.source].max())


def packed_flops(forward: NDArray[np.float64], slice_: Slice) -> float:
    """Operations of one packed batch: every sample as much as it needs."""
    return PASSES_OF_TRAINING * float(forward[slice_.source].sum())
