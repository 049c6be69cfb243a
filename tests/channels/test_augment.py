"""An augmented sample is a possible sample: again a sum of the same number of paths, each as strong as it was."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from channels.augment import AUGMENTATIONS, Augmentation, AugmentationDraws, augment, draw_augmentations
from channels.signal import sample_keys, sample_power

KEYS = sample_keys("S1", "train", np.arange(4096))
PATHS = 3
FLIPS = ("conjugate", "reverse_time", "mirror_azimuth")
shapes = st.tuples(st.integers(1, 6), st.integers(4, 9), st.integers(1, 4), st.integers(1, 3))
"""Slots, subcarriers, columns, rows."""


@dataclass(frozen=True)
class Paths:
    """Doppler, delay, azimuth and elevation [PATHS] in turns a slot, subcarrier, column, row; complex gains [PATHS]."""

    doppler: NDArray[np.float64]
    delay: NDArray[np.float64]
    azimuth: NDArray[np.float64]
    elevation: NDArray[np.float64]
    gain: NDArray[np.complex128]

    def waves(self, shape: tuple[int, int, int, int]) -> NDArray[np.complex128]:
        """Of unit gain [PATHS, T, K, A]."""
        turns = (self.doppler, -self.delay, self.azimuth, self.elevation)
        axes = [np.exp(2j * np.pi * np.outer(turn, np.arange(size))) for turn, size in zip(turns, shape, strict=True)]
        slots, subcarriers, columns, rows = shape
        return np.einsum("lt,lk,lc,lr->ltkcr", *axes).reshape(-1, slots, subcarriers, columns * rows)

    def sample(self, shape: tuple[int, int, int, int]) -> NDArray[np.complex64]:
        """Their sum [1, T, K, A]."""
        return np.einsum("l,ltka->tka", self.gain, self.waves(shape))[None].astype(np.complex64)


def draw_paths(seed: int) -> Paths:
    """Delays in [0, 0.4], at least 0.15 apart; elevations below the horizon; all others of either sign."""
    random = np.random.default_rng(seed)
    delay = np.arange(PATHS) * 0.15 + random.uniform(0, 0.1 / PATHS, PATHS)
    doppler, azimuth = random.uniform(-0.4, 0.4, (2, PATHS))
    gain = random.uniform(0.5, 1, PATHS) * np.exp(2j * np.pi * random.uniform(size=PATHS))
    return Paths(doppler, delay, azimuth, random.uniform(-0.4, -0.05, PATHS), gain)


def fitted(channel: NDArray[np.complex64], paths: Paths, shape: tuple[int, int, int, int]) -> tuple[NDArray, float]:
    """Gains of the paths that explain a sample best, and the share of its power that they leave."""
    waves = paths.waves(shape).reshape(PATHS, -1).T
    gains = np.linalg.lstsq(waves, channel.ravel().astype(np.complex128))[0]
    left = channel.ravel() - waves @ gains
    return gains, float(np.sum(np.abs(left) ** 2) / np.sum(np.abs(channel) ** 2))


def draws_of(conjugate: bool, reverse_time: bool, mirror_azimuth: bool, angle: float = 0.0) -> AugmentationDraws:
    turn = np.array([[np.cos(angle), np.sin(angle)]], np.float32)
    return AugmentationDraws(turn, np.array([[conjugate, reverse_time, mirror_azimuth]]))


@given(st.integers(0, 10**6), shapes, st.booleans(), st.booleans(), st.booleans(), st.floats(0, 6.28))
def test_paths_keep_delay_elevation_and_strength(
    seed: int, shape: tuple[int, int, int, int], conjugate: bool, time: bool, azimuth: bool, angle: float
) -> None:
    paths = draw_paths(seed)
    sample = paths.sample(shape)
    found = augment(sample, shape[3], draws_of(conjugate, time, azimuth, angle))
    assert found.shape == sample.shape and found.dtype == np.complex64
    np.testing.assert_allclose(sample_power(found), sample_power(sample), rtol=1e-5)
    expected = Paths(
        -paths.doppler if time else paths.doppler,
        paths.delay,
        -paths.azimuth if azimuth else paths.azimuth,
        paths.elevation,
        paths.gain,
    )
    gains, left = fitted(found, expected, shape)
    assert left < 1e-10
    np.testing.assert_allclose(np.abs(gains), np.abs(paths.gain), rtol=1e-3)


def test_what_has_no_name_is_no_possible_sample() -> None:
    """Of all conjugations and reversals those keep delays positive and elevations negative that have a name."""
    shape = (4, 8, 3, 2)
    paths = draw_paths(1)
    sample = paths.sample(shape)
    array = sample.reshape(shape)
    signs = list(product((1, -1), repeat=2))
    ours = [augment(sample, shape[3], draws_of(*flips)).tobytes() for flips in product((False, True), repeat=3)]
    possible = set()
    for conjugated, *steps in product((False, True), *[(1, -1)] * 4):
        view = array[tuple(slice(None, None, step) for step in steps)]
        other = np.ascontiguousarray(view.conj() if conjugated else view)
        kept = [
            Paths(doppler * paths.doppler, paths.delay, azimuth * paths.azimuth, paths.elevation, paths.gain)
            for doppler, azimuth in signs
        ]
        if min(fitted(other, candidate, shape)[1] for candidate in kept) < 1e-10:
            possible.add(other.tobytes())
    assert len(possible) == 8
    assert possible == set(ours)


def test_conjugation_changes_nothing_but_the_phases_of_the_paths() -> None:
    shape = (5, 9, 4, 2)
    paths = draw_paths(2)
    found = augment(paths.sample(shape), shape[3], draws_of(True, False, False))
    last = np.array(shape) - 1
    turns = paths.doppler * last[0] - paths.delay * last[1] + paths.azimuth * last[2] + paths.elevation * last[3]
    gains, left = fitted(found, paths, shape)
    assert left < 1e-10
    np.testing.assert_allclose(gains, paths.gain.conj() * np.exp(-2j * np.pi * turns), rtol=1e-4)


def test_single_slots_and_single_columns_have_no_other_direction() -> None:
    sample = draw_paths(3).sample((1, 8, 1, 4))
    np.testing.assert_array_equal(augment(sample, 4, draws_of(False, True, True)), sample)


def test_a_phase_is_one_for_a_sample() -> None:
    channel = np.repeat(draw_paths(4).sample((2, 8, 2, 2)), 64, axis=0)
    ratio = augment(channel, 2, draw_augmentations(["phase"], 3, KEYS[:64], 0)) / channel
    np.testing.assert_allclose(np.abs(ratio), 1, atol=1e-5)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], ratio.shape), atol=1e-5)


def test_draws_are_uniform_and_independent() -> None:
    draws = draw_augmentations(AUGMENTATIONS, 3, KEYS, 1)
    assert draws.turns is not None and draws.flips is not None
    phasors = draws.turns.astype(np.float64) @ np.array([1, 1j])
    for moment in (1, 2, 3):
        assert abs(np.mean(phasors**moment)) < 5 / len(KEYS) ** 0.5
    signs = 1.0 - 2 * draws.flips
    # Means, and means of products of two: five standard errors.
    assert np.abs(signs.mean(0)).max() < 5 / len(KEYS) ** 0.5
    assert np.abs(signs.T @ signs / len(KEYS) - np.eye(3)).max() < 5 / len(KEYS) ** 0.5


def test_draws_are_fresh_for_seed_key_and_epoch() -> None:
    drawn = [draw_augmentations(AUGMENTATIONS, seed, KEYS[:64], epoch) for seed, epoch in ((0, 0), (1, 0), (0, 1))]
    for name in ("turns", "flips"):
        values = [getattr(draws, name) for draws in drawn]
        assert len({value.tobytes() for value in values}) == 3
        assert len(np.unique(values[0], axis=0)) > 4
        again = getattr(draw_augmentations(AUGMENTATIONS, 0, KEYS[:64], 0), name)
        np.testing.assert_array_equal(again, values[0])


@given(st.permutations(range(8)), st.integers(1, 8))
def test_draws_do_not_depend_on_the_batch(order: list[int], size: int) -> None:
    part = np.array(order[:size])
    whole, ours = (draw_augmentations(AUGMENTATIONS, 1, keys, 2) for keys in (KEYS[:8], KEYS[part]))
    assert whole.turns is not None and whole.flips is not None
    np.testing.assert_array_equal(ours.turns, whole.turns[part])
    np.testing.assert_array_equal(ours.flips, whole.flips[part])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_draw_is_the_same_whatever_else_is_named(name: Augmentation) -> None:
    alone, together = (draw_augmentations(names, 1, KEYS[:32], 2) for names in ([name], AUGMENTATIONS))
    if name == "phase":
        assert alone.flips is None
        np.testing.assert_array_equal(alone.turns, together.turns)
        return
    assert alone.turns is None and alone.flips is not None and together.flips is not None
    column = FLIPS.index(name)
    np.testing.assert_array_equal(alone.flips[:, column], together.flips[:, column])
    assert alone.flips.sum() == alone.flips[:, column].sum()
