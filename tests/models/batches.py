"""Batches for tests of HeterCSI."""

import numpy as np

from models.interface import collate

SCALES = ((16, 32, 8), (8, 16, 4), (16, 18, 4), (7, 9, 5), (8, 64, 4), (4, 4, 4))
"""Lengths 64, 8, 20, 12, 32 and 1, two of them with partial patches."""


def make_channels(count, shape, seed):
    draw = np.random.default_rng(seed).standard_normal((2, count, *shape)) * np.sqrt(0.5)
    return (draw[0] + 1j * draw[1]).astype(np.complex64)


def make_batch(spec, scales=SCALES, first_key=100, count=1, weight=1.0):
    """``count`` samples of each scale; the values and key of a sample depend on its number ``first_key + i`` only."""
    parts, keys = [], []
    for scale in scales:
        for _ in range(count):
            key = first_key + len(keys)
            keys.append(key)
            parts.append(spec.tokenise(make_channels(1, scale, key), 4))
    return collate(parts, np.array(keys, np.int64), np.full(len(keys), weight, np.float32), 4)
