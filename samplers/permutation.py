"""Keyed bijections on [0, n): a shuffle of any size in constant memory, evaluated wherever it is needed.

The bijection is a Feistel network over Z_rows x Z_columns with rows x columns just above n, whose round function is a
splitmix64 finaliser (Steele, Lea and Flood 2014); a value that leaves [0, n) walks on along its cycle until it is back
(Black and Rogaway 2002). Up to TINY elements, where few Feistel rounds are visibly uneven, each element draws a number
and its image is the rank of that number. Sizes and keys may differ from element to element: one call serves many
shuffles.
"""

import hashlib
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

HALF_ROUNDS = 8
TINY = 16
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
HIGH_HALF = np.uint64(32)


class Stream(IntEnum):
    """Uses of an epoch's key, each with its own children."""

    SAMPLES = 0
    RUNS = 1
    POOLS = 2
    TURNS = 3
    STEPS = 4


Keys = NDArray[np.uint64]
Integers = NDArray[np.int64]


def root_key(*parts: int | str) -> int:
    """A 64-bit key that depends on every part and on its place, the same in every process and on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def child_keys(parent: ArrayLike, child: ArrayLike) -> Keys:
    """Keys uint64 of numbered children of a key; parents and child numbers broadcast."""
    keys = np.atleast_1d(np.asarray(parent, np.uint64)) + (_unsigned(child) + np.uint64(1)) * GOLDEN
    keys = (keys ^ (keys >> np.uint64(30))) * FIRST_FACTOR
    keys = (keys ^ (keys >> np.uint64(27))) * SECOND_FACTOR
    mixed: Keys = keys ^ (keys >> np.uint64(31))
    return mixed


def quotient(dividend: Integers, divisor: Integers) -> Integers:
    """Floor of dividend / divisor for numbers that are not negative (unsigned division is the faster one)."""
    return (dividend.view(np.uint64) // divisor.view(np.uint64)).view(np.int64)


def permute(positions: ArrayLike, size: ArrayLike, key: ArrayLike) -> Integers:
    """Images int64 of positions under the permutation of [0, size) that each key names; all three broadcast.

    Cost: O(1) memory an element, about one evaluation each (a second one with probability about 2 / sqrt(size)).
    """
    keys = np.atleast_1d(np.asarray(key, np.uint64))
    values, sizes, keys = np.broadcast_arrays(_unsigned(positions), _unsigned(size), keys)
    shape = values.shape
    values, sizes, keys = values.ravel(), sizes.ravel(), keys.ravel()
    assert (values < sizes).all(), "a position lies outside its permutation"
    tiny = sizes <= TINY
    if tiny.all():
        images = _ranks(values, sizes, keys)
    else:
        images = _walks(values, np.maximum(sizes, np.uint64(TINY + 1)), keys)
        images[tiny] = _ranks(values[tiny], sizes[tiny], keys[tiny])
    return images.view(np.int64).reshape(shape)


def _unsigned(values: ArrayLike) -> Keys:
    return np.atleast_1d(np.asarray(values)).astype(np.uint64)


def _ranks(values: Keys, sizes: Keys, keys: Keys) -> Keys:
    """How many of the size keyed numbers of each permutation are smaller than the number of the value."""
    own = child_keys(keys, values)
    ranks = np.zeros_like(values)
    for rival in range(int(sizes.max(initial=0))):
        numbers = child_keys(keys, rival)
        ranks += (numbers < own) & (np.uint64(rival) < sizes)
    return ranks


def _walks(values: Keys, sizes: Keys, keys: Keys) -> Keys:
    images = _network(values, sizes, keys)
    outside = np.flatnonzero(images >= sizes)
    while outside.size:
        walked = _network(images[outside], sizes[outside], keys[outside])
        images[outside] = walked
        outside = outside[walked >= sizes[outside]]
    return images


def _network(values: Keys, sizes: Keys, keys: Keys) -> Keys:
    """One pass through the Feistel network on [0, rows * columns), which holds [0, size)."""
    rows = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    # An even number of columns: with rows and columns both odd, only even permutations could occur.
    pairs = (sizes + np.uint64(2) * rows - np.uint64(1)) // (np.uint64(2) * rows)
    columns = np.uint64(2) * pairs
    row = values // columns
    column = values - row * columns
    for half_round in range(0, HALF_ROUNDS, 2):
        column = _shifted(column, columns, row, keys, half_round)
        row = _shifted(row, rows, column, keys, half_round + 1)
    images: Keys = row * columns + column
    return images


def _shifted(target: Keys, modulus: Keys, control: Keys, keys: Keys, half_round: int) -> Keys:
    """(target + hash(control)) mod modulus, the hash scaled to [0, modulus) by its upper 32 bits."""
    scrambled = control + np.uint64((half_round + 1) << 34)
    scrambled *= GOLDEN
    scrambled += keys
    scrambled ^= scrambled >> HIGH_HALF
    scrambled *= FIRST_FACTOR
    scrambled >>= HIGH_HALF
    scrambled *= modulus
    scrambled >>= HIGH_HALF
    scrambled += target
    # Unsigned wrap-around makes the wrong branch the larger one.
    reduced: Keys = np.minimum(scrambled, scrambled - modulus)
    return reduced
