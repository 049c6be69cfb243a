"""Augmentations: random changes of a channel sample that make another possible sample of it.

A sample is a sum of paths over slots, subcarriers, columns and rows of the planar array,

    H[t, k, c, r] = sum over l of a_l exp(2 pi i (nu_l t - tau_l k + u_l c + v_l r)),

where nu is a path's Doppler shift, tau >= 0 its delay, and u and v say from which azimuth and elevation it comes.
Conjugation negates all four, and the reversal of an axis the one that belongs to it: H[T - 1 - t] has the paths
a_l exp(2 pi i nu_l (T - 1)) at -nu_l. Magnitudes |a_l| stay. What may change its sign (the shares are those of samples
of the published sets, 30 of them, by the mean phase step along an axis):

- tau may not: subcarriers are reversed and the channel conjugated together, or neither.
- v may not, as users lie below the station (negative in 62 to 100 % of a set's samples): rows are reversed together
  with a conjugation, or not at all.
- u may: the mirror image of a scene is a scene, in the published geometry as likely (positive in 36 to 60 %).
- nu may: the user moves the other way. An element that looks where the user goes receives more from ahead, however
  (positive in 69 to 100 %): the channel of a user that walks backwards is possible, but rare.

So eight combinations of conjugation and reversals are possible: those of three that are each possible alone.

- ``conjugate``: conjugation with all axes reversed, columns and rows too, as in forward-backward averaging (Pillai,
  Kwon 1989). Every path keeps its delay, Doppler shift and angles; its gain becomes
  conj(a_l) exp(-2 pi i (nu_l (T - 1) - tau_l (K - 1) + u_l (C - 1) + v_l (R - 1))).
- ``reverse_time``: slots reversed, Doppler shifts negated.
- ``mirror_azimuth``: columns reversed, azimuth mirrored at broadside.

Each happens with probability 1/2. ``phase`` multiplies a sample by exp(i phi) with phi uniform. All keep a sample's
power. There is no name for the reversal of subcarriers, rows or the antenna index alone: delays would be negative, and
users above the station.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from channels.signal import draw_states, draw_words

Augmentation = Literal["phase", "conjugate", "reverse_time", "mirror_azimuth"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

_FLIPS = AUGMENTATIONS[1:]
_STREAM = 0x6175676D656E74
"""Keeps augmentations apart from other draws that share seed, key and epoch."""


@dataclass(frozen=True, slots=True)
class AugmentationDraws:
    """What happens to each of n samples.

    turns: float32 [n, 2], cosine and sine of a sample's phase; None for no turns. flips: bool [n, 3], whether a sample
    is conjugated with all axes reversed, reversed in time, mirrored in azimuth; None for no flips.
    """

    turns: NDArray[np.float32] | None
    flips: NDArray[np.bool_] | None


def draw_augmentations(
    names: Sequence[Augmentation], seed: int, keys: NDArray[np.int64], epoch: int
) -> AugmentationDraws:
    """Draws for keys int64 [n]: a function of (seed, key, epoch), and each name's the same whatever else is named."""
    if not names:
        return AugmentationDraws(None, None)
    words = draw_words(draw_states(_STREAM, seed, keys, epoch), len(AUGMENTATIONS))
    turns, flips = None, None
    if "phase" in names:
        angle = (words[:, 0] >> np.uint64(11)).astype(np.float64) * (2 * np.pi * 2.0**-53)
        turns = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    if any(name in names for name in _FLIPS):
        flips = (words[:, 1:] >> np.uint64(63)).astype(np.bool_)
        flips &= np.array([name in names for name in _FLIPS])
    return AugmentationDraws(turns, flips)


def augment(channel: NDArray[np.complex64], rows: int, draws: AugmentationDraws) -> NDArray[np.complex64]:
    """Augmented samples complex64 [n, T, K, A] of a planar array with antenna index = col * rows + row."""
    if draws.flips is not None:
        channel = _flipped(channel, rows, draws.flips)
    return channel if draws.turns is None else _turned(channel, draws.turns)


def _flipped(channel: NDArray[np.complex64], rows: int, flips: NDArray[np.bool_]) -> NDArray[np.complex64]:
    samples, slots, subcarriers, antennas = channel.shape
    arrays = channel.reshape(samples, slots, subcarriers, antennas // rows, rows)
    result = np.empty_like(arrays)
    for array, place, (conjugate, time, azimuth) in zip(arrays, result, flips.tolist(), strict=True):
        every = _step(conjugate)
        view = array[_step(conjugate != time), every, _step(conjugate != azimuth), every]
        if conjugate:
            np.conjugate(view, out=place)
        else:
            place[...] = view
    return result.reshape(channel.shape)


def _step(reverse: bool) -> slice:
    return slice(None, None, -1 if reverse else 1)


def _turned(channel: NDArray[np.complex64], turns: NDArray[np.float32]) -> NDArray[np.complex64]:
    parts = channel.view(np.float32).reshape(len(channel), -1, 2)
    # Every product is rounded before the sum, so that other devices find the same bits.
    turned, crossed = parts * turns[:, :1, None], parts * turns[:, 1:, None]
    turned[..., 0] -= crossed[..., 1]
    turned[..., 1] += crossed[..., 0]
    return turned.view(np.complex64).reshape(channel.shape)
