"""Crops: a part of a channel's slots or subcarriers, one after the other, is a channel of a smaller scale.

Paths keep delay, Doppler shift and angles; the offset turns the phases of their gains.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from channels.signal import draw_states, draw_words

Crop = Literal["slots", "subcarriers"]
"""The axis of which one half is kept."""

_STREAM = 0x63726F70
"""Keeps crops apart from other draws that share seed, key and epoch."""


def cropped_shape(shape: tuple[int, int, int], crop: Crop) -> tuple[int, int, int]:
    """Scale (T, K, A) of what is kept of that scale: zero where there is nothing to halve."""
    slots, subcarriers, antennas = shape
    return (slots // 2, subcarriers, antennas) if crop == "slots" else (slots, subcarriers // 2, antennas)


def draw_offsets(
    shape: tuple[int, int, int], crop: Crop, seed: int, keys: NDArray[np.int64], epoch: int
) -> NDArray[np.int64]:
    """The first slot or subcarrier that is kept of samples of a scale, int64 [n], uniform in all there may be.

    A function of (seed, key, epoch).
    """
    axis = 0 if crop == "slots" else 1
    choices = shape[axis] - cropped_shape(shape, crop)[axis] + 1
    words = draw_words(draw_states(_STREAM, seed, keys, epoch), 1)[:, 0]
    return ((words >> np.uint64(1)) % np.uint64(choices)).astype(np.int64)


def crop_samples(
    channel: NDArray[np.complex64],
    crop: Crop,
    offsets: NDArray[np.int64],
    out: NDArray[np.complex64] | None = None,
) -> NDArray[np.complex64]:
    """One half of samples [n, T, K, A], from their offsets on. out: memory to be filled and returned."""
    count, slots, subcarriers, antennas = channel.shape
    slots, subcarriers, _ = cropped_shape((slots, subcarriers, antennas), crop)
    kept = np.empty((count, slots, subcarriers, antennas), np.complex64) if out is None else out
    for sample, place, first in zip(channel, kept, offsets.tolist(), strict=True):
        place[...] = sample[first : first + slots] if crop == "slots" else sample[:, first : first + subcarriers]
    return kept
