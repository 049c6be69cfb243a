"""Random snapshots and batches for the tests of models of single snapshots."""

import numpy as np
from numpy.typing import NDArray

from models.interface import ModelSpec, TokenBatch, collate


def random_channels(count: int, subcarriers: int, antennas: int, seed: int = 0) -> NDArray[np.complex64]:
    """Smooth channels of unit power: 6 paths each, complex64 [count, 1, subcarriers, antennas]."""
    rng = np.random.default_rng(seed)
    gains = rng.standard_normal((count, 6)) + 1j * rng.standard_normal((count, 6))
    delays = np.exp(-2j * np.pi * rng.uniform(0, 0.2, (count, 6, 1)) * np.arange(subcarriers))
    angles = np.exp(-2j * np.pi * rng.uniform(-0.2, 0.2, (count, 6, 1)) * np.arange(antennas))
    channels = np.einsum("np,npk,npa->nka", gains, delays, angles)[:, None]
    return (channels / np.sqrt((np.abs(channels) ** 2).mean((1, 2, 3), keepdims=True))).astype(np.complex64)


def random_batch(spec: ModelSpec, variant: int, scales: list[tuple[int, int, int]], seed: int = 0) -> TokenBatch:
    """A batch of parts; scales: (samples, subcarriers, antennas) of each part. Keys are 100, 101, ..."""
    parts = [spec.tokenise(random_channels(*scale, seed=seed + i), variant) for i, scale in enumerate(scales)]
    count = sum(scale[0] for scale in scales)
    return collate(parts, np.arange(100, 100 + count), np.ones(count, np.float32), variant)


def alone(batch: TokenBatch, row: int) -> TokenBatch:
    """One sample of a batch as a batch without padding."""
    length = int(batch.lengths[row])
    return TokenBatch(
        tokens=batch.tokens[row : row + 1, :length],
        elements=None if batch.elements is None else batch.elements[row : row + 1, :length],
        lengths=batch.lengths[row : row + 1],
        grid=batch.grid[row : row + 1],
        keys=batch.keys[row : row + 1],
        weight=batch.weight[row : row + 1],
        variant=batch.variant,
    )
