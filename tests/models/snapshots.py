"""Random snapshots and batches for the tests of models of single snapshots."""

import numpy as np
import torch
from numpy.typing import NDArray

from models.interface import MaskDraw, ModelSpec, PackedBatch, PretrainingModel, TokenBatch, collate
from models.layers.packing import pack


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


def packed_and_padded(spec: ModelSpec, variant: int) -> tuple[PackedBatch, TokenBatch]:
    """The same samples of four scales, in no order of length, in both forms; one is a filler."""
    scales = [(2, 32, 16), (2, 18, 10), (1, 4, 4), (2, 8, 64)]
    parts = [spec.tokenise(random_channels(*scale, seed=i), variant) for i, scale in enumerate(scales)]
    weight = np.asarray([1, 0, 2, 0.5, 1, 1, 3], np.float32)
    keys = np.arange(100, 107)
    return pack(parts, keys, weight, variant), collate(parts, keys, weight, variant)


def loss_and_gradient(model: PretrainingModel, batch: TokenBatch | PackedBatch) -> tuple[float, torch.Tensor]:
    """Loss sum of a batch, and its gradient in one row."""
    loss = model(batch, MaskDraw(seed=0, epoch=0)).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])
