"""Normalisation and measurement noise, applied to channels as they are read."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NOISE_STREAM = 0x6E6F697365
"""Keeps noise apart from other draws that share seed, key and epoch."""
_WEAKEST = float(np.finfo(np.float32).tiny)
UNUSABLE = "it is zero, too weak for single precision, infinite or not a number"
"""Of the mean power of a sample that is not usable."""


def sample_power(channel: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Mean |H|^2 of each sample, float64 [n]."""
    # A physical channel's |H|^2 is around 1e-12 and may be far lower: float32 squares would lose it.
    parts = np.ascontiguousarray(channel).view(np.float32).reshape(len(channel), -1).astype(np.float64)
    power: NDArray[np.float64] = np.einsum("ij,ij->i", parts, parts) / (parts.shape[1] // 2)
    return power


def is_usable(power: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether samples of these mean powers can be normalised: neither zero nor infinite nor not a number.

    Below the smallest normal float32 an amplitude has lost its digits, and its reciprocal may be infinite.
    """
    return np.isfinite(power) & (power >= _WEAKEST**2)


def unit_power(
    channel: NDArray[np.complex64], where: str | None = None, mend: str | None = None
) -> NDArray[np.complex64]:
    """Each sample divided by the root of its mean power over (T, K, A), as in HeterCSI (complex64 [n, T, K, A]).

    where, mend: what the samples are read from, and what to do, for errors. Raises UserError naming the first sample
    that is not usable.
    """
    power = sample_power(channel)
    _check_power(power, where, mend)
    scale = (1.0 / np.sqrt(power)).astype(np.float32)
    return channel * scale[:, None, None, None]


def check_samples(channel: NDArray[np.complex64], where: str | None = None, mend: str | None = None) -> None:
    """What ``unit_power`` checks, by sums in float32, in a fraction of its time; raises UserError as it does."""
    parts = np.ascontiguousarray(channel).view(np.float32).reshape(len(channel), -1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rough = np.einsum("ij,ij->i", parts, parts)
    doubtful = np.flatnonzero(~(np.isfinite(rough) & (rough > 0)))
    if len(doubtful):
        # A weak or strong channel's squares may leave float32: only the exact power says what is wrong with it.
        power = np.ones(len(channel))
        power[doubtful] = sample_power(channel[doubtful])
        _check_power(power, where, mend)


def _check_power(power: NDArray[np.float64], where: str | None, mend: str | None) -> None:
    bad = ~is_usable(power)
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        what = f"sample {index} of the {len(power)} read has mean power {power[index]}, so it cannot be normalised"
        raise UserError(what, where=where, mend=mend)


def sample_keys(set_name: str, split: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """One key a sample, int64 [n] in [0, 2^63), from its names and index alone, whatever else the store holds.

    A blake2b hash of the names is the state of a splitmix64 generator, of which the index picks the output.
    """
    digest = hashlib.blake2b(f"{set_name}\0{split}".encode(), digest_size=8).digest()
    state = np.uint64(int.from_bytes(digest, "little"))
    with np.errstate(over="ignore"):
        word = _mix(state + (np.asarray(indices).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (word >> np.uint64(1)).astype(np.int64)


def add_noise(
    channel: NDArray[np.complex64], snr_db: float, seed: int, keys: NDArray[np.int64], epoch: int
) -> NDArray[np.complex64]:
    """The channel as measured: complex Gaussian noise of a sample's mean power / 10^(snr_db/10) is added to it.

    channel: complex64 [n, T, K, A]; keys: int64 [n]. Half of the variance lies in each of the real and imaginary parts
    (as in HeterCSI, where snr_db is 20). A sample's noise is a function of (seed, key, epoch) and of nothing else in
    the batch: the three are hashed to the state of a splitmix64 generator.
    """
    assert len(keys) == len(channel), "one key a sample"
    deviation = np.sqrt(sample_power(channel) * 10 ** (-snr_db / 10) / 2).astype(np.float32)
    noise = _normal_pairs(noise_states(seed, keys, epoch), math.prod(channel.shape[1:]))
    noise *= deviation[:, None, None]
    noisy: NDArray[np.complex64] = noise.view(np.complex64).reshape(channel.shape)
    noisy += channel
    return noisy


def noise_states(seed: int, keys: NDArray[np.int64], epoch: int) -> NDArray[np.uint64]:
    """The state of splitmix64 from which each key's noise is drawn, uint64 [n]."""
    return draw_states(_NOISE_STREAM, seed, keys, epoch)


def draw_states(stream: int, seed: int, keys: NDArray[np.int64], epoch: int) -> NDArray[np.uint64]:
    """One state of splitmix64 a key, uint64 [n]. stream: keeps apart what is drawn for the same (seed, key, epoch)."""
    with np.errstate(over="ignore"):
        origin: NDArray[np.uint64] = np.full(1, stream, np.uint64)
        for word in (seed, epoch):
            origin = _mix((origin + _GOLDEN) ^ np.uint64(word))
        return _mix(origin ^ np.asarray(keys).astype(np.uint64))


def draw_words(states: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """The first outputs of each state's generator, uint64 [n, count]."""
    with np.errstate(over="ignore"):
        return _mix(states[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def _normal_pairs(states: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """Standard normal float32 [n, count, 2]: each output of a state's generator makes a pair (Box and Muller 1958)."""
    words = draw_words(states, count)
    # Floats hold 24 bits: the high ones of either half of a word.
    radius, angle = _radius(words >> np.uint64(40)), _angle((words >> np.uint64(8)) & np.uint64(0xFFFFFF))
    pairs = np.empty((*words.shape, 2), np.float32)
    np.multiply(radius, np.cos(angle), out=pairs[..., 0])
    np.multiply(radius, np.sin(angle), out=pairs[..., 1])
    return pairs


def _radius(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Distance of a pair from the origin, of 24 bits as a number in (0, 1]."""
    radius: NDArray[np.float32] = (bits.astype(np.float32) + np.float32(1)) * np.float32(2.0**-24)
    np.sqrt(np.multiply(np.log(radius, out=radius), np.float32(-2), out=radius), out=radius)
    return radius


def _angle(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Direction of a pair, of 24 bits as a number in [0, 1) of a turn."""
    angle: NDArray[np.float32] = bits.astype(np.float32) * np.float32(2 * np.pi * 2.0**-24)
    return angle


def normal_tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a pair of normal numbers is the product of, for every value of 24 bits: radius float32 [2^24], cosine and
    sine float32 [2^24, 2].

    Another device that looks them up draws the numbers of ``add_noise`` to the last bit, whatever its own logarithm and
    cosine round to.
    """
    radius, turn = np.empty(2**24, np.float32), np.empty((2**24, 2), np.float32)
    # In pieces that a core's cache holds.
    for first in range(0, 2**24, 2**15):
        piece = slice(first, first + 2**15)
        bits = np.arange(piece.start, piece.stop, dtype=np.uint64)
        radius[piece], angle = _radius(bits), _angle(bits)
        turn[piece, 0], turn[piece, 1] = np.cos(angle), np.sin(angle)
    return radius, turn


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), in place."""
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word
