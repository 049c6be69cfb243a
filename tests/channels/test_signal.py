import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from channels.signal import add_noise, check_samples, noise_states, normal_tables, sample_keys, unit_power

Draw = Callable[..., np.ndarray]
KEYS = sample_keys("S1", "train", np.arange(64))


def power(channel: np.ndarray) -> np.ndarray:
    return np.mean(np.abs(channel.astype(np.complex128)) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_unit_power_at_any_scale(noise: Draw, scale: float):
    channel = noise(5, 4, 8, 2) * np.float32(scale) * np.arange(1, 6, dtype=np.float32)[:, None, None, None]
    normal = unit_power(channel)
    assert normal.dtype == np.complex64
    np.testing.assert_allclose(power(normal), 1, rtol=1e-5)
    np.testing.assert_allclose(np.angle(normal), np.angle(channel), atol=1e-5)


@pytest.mark.parametrize("value", [0, 1e-40, np.nan, np.inf])
def test_unit_power_names_the_bad_sample(noise: Draw, value: float):
    channel = noise(5, 4, 8, 2)
    channel[3] = value
    with pytest.raises(UserError, match=r"^store, S1/train: sample 3 of the 5 read"):
        unit_power(channel, "store, S1/train")


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e25])
def test_a_sample_is_checked_at_any_scale(noise: Draw, scale: float):
    channel = noise(5, 4, 8, 2) * np.float32(scale)
    check_samples(channel)
    for value in (0, 1e-40, np.nan, np.inf):
        channel[3] = value
        with pytest.raises(UserError, match=r"^store, S1/train: sample 3 of the 5 read"):
            check_samples(channel, "store, S1/train")


def test_tables_hold_the_numbers_of_the_noise():
    channel = np.ones((2, 1, 1, 1000), np.complex64)
    noise = add_noise(channel, 0.0, 11, KEYS[:2], 4) - channel
    radius, turn = normal_tables()
    for row, state in enumerate(noise_states(11, KEYS[:2], 4)):
        words = np.array(splitmix64(int(state), 1000), np.uint64)
        drawn = radius[words >> np.uint64(40)][:, None] * turn[(words >> np.uint64(8)) & np.uint64(0xFFFFFF)]
        drawn *= np.sqrt(np.float64(0.5)).astype(np.float32)
        shown = drawn + np.array([1, 0], np.float32) - np.array([1, 0], np.float32)
        np.testing.assert_array_equal(noise[row, 0, 0].view(np.float32).reshape(-1, 2), shown)


def test_keys_are_distinct_and_stable():
    named = [sample_keys(name, split, np.arange(20_000)) for name in ("S1", "S2") for split in ("train", "test")]
    keys = np.concatenate(named)
    assert keys.dtype == np.int64 and keys.min() >= 0 and len(np.unique(keys)) == len(keys)


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator in plain integers."""
    outputs = []
    for step in range(1, count + 1):
        word = (seed + step * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(word ^ (word >> 31))
    return outputs


def test_keys_are_outputs_of_splitmix64():
    # First outputs of the published generator for seed 1234567.
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seed = int.from_bytes(hashlib.blake2b(b"P01\0train", digest_size=8).digest(), "little")
    expected = [word >> 1 for word in splitmix64(seed, 50)]
    assert sample_keys("P01", "train", np.arange(50)).tolist() == expected


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_a_key_depends_on_its_index_alone(indices: list[int]):
    together = sample_keys("S1", "train", np.array(indices, np.int64))
    alone = [int(sample_keys("S1", "train", np.array([index]))[0]) for index in indices]
    assert together.tolist() == alone


def test_key_bits_are_balanced():
    bits = (KEYS[:, None] >> np.arange(63)) & 1
    assert abs(bits.mean() - 0.5) < 0.03 and np.ptp(bits.mean(axis=0)) < 0.5


@pytest.mark.parametrize("snr_db", [20.0, 5.0])
def test_noise_power_and_shape(noise: Draw, snr_db: float):
    channel = noise(64, 8, 32, 4) * np.linspace(1, 50, 64, dtype=np.float32)[:, None, None, None]
    added = add_noise(channel, snr_db, 3, KEYS, 0) - channel
    ratio = power(added) / power(channel)
    np.testing.assert_allclose(ratio, 10 ** (-snr_db / 10), rtol=0.15)
    assert ratio.mean() == pytest.approx(10 ** (-snr_db / 10), rel=0.01)
    parts = added / np.sqrt(power(added))[:, None, None, None]
    assert np.mean(parts.real**2) == pytest.approx(0.5, rel=0.02)
    assert abs(np.mean(parts.real * parts.imag)) < 0.01
    for axis in (1, 2, 3):
        assert abs(np.mean(parts * np.conj(np.roll(parts, 1, axis)))) < 0.01


def test_floor_of_the_published_metric(noise: Draw):
    """NMSE of a perfect prediction against the noisy target: 0.01 / 1.01, -20.04 dB."""
    channel = unit_power(noise(64, 8, 32, 8))
    target = add_noise(channel, 20.0, 0, KEYS, 0)
    nmse = power(target - channel) / power(target)
    assert 10 * np.log10(nmse.mean()) == pytest.approx(-20.04, abs=0.03)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_noise_does_not_depend_on_the_batch(noise: Draw, order: list[int], size: int):
    channel = noise(6, 2, 4, 2)
    whole = add_noise(channel, 20.0, 1, KEYS[:6], 2)
    part = np.array(order[:size])
    np.testing.assert_array_equal(add_noise(channel[part], 20.0, 1, KEYS[part], 2), whole[part])


def test_noise_is_fresh_for_seed_key_and_epoch(noise: Draw):
    channel = np.repeat(noise(1, 4, 8, 2), 2, axis=0)
    draws = [add_noise(channel, 20.0, seed, KEYS[:2], epoch) - channel for seed, epoch in ((0, 0), (1, 0), (0, 1))]
    flat = np.stack([sample.ravel() for draw in draws for sample in draw])
    correlation = np.abs(np.corrcoef(flat))
    assert correlation[~np.eye(len(flat), dtype=bool)].max() < 0.5
    np.testing.assert_array_equal(add_noise(channel, 20.0, 0, KEYS[:2], 0) - channel, draws[0])


def test_noise_is_normal_to_its_tails(noise: Draw):
    channel = np.ones((64, 8, 32, 16), np.complex64)
    parts = (add_noise(channel, 0.0, 5, KEYS, 1) - channel).view(np.float32).astype(np.float64).ravel() * np.sqrt(2)
    assert len(parts) == 524_288
    # Moments and shares beyond 1, 2 and 3 deviations of a standard normal, within five standard errors.
    for moment, expected, error in ((1, 0, 1.0), (2, 1, 1.5), (3, 0, 3.9), (4, 3, 9.9)):
        assert np.mean(parts**moment) == pytest.approx(expected, abs=5 * error / len(parts) ** 0.5)
    for bound, share in ((1, 0.317311), (2, 0.045500), (3, 0.002700)):
        error = (share * (1 - share) / len(parts)) ** 0.5
        assert np.mean(np.abs(parts) > bound) == pytest.approx(share, abs=5 * error)


def test_noise_is_that_of_splitmix64():
    channel = np.ones((1, 1, 1, 2), np.complex64)
    origin = 0x6E6F697365
    for word in (11, 4):  # seed, epoch
        origin = mix_word(((origin + 0x9E3779B97F4A7C15) % 2**64) ^ word)
    state = mix_word(origin ^ int(KEYS[0]))
    for antenna, word in enumerate(splitmix64(state, 2)):
        radius = np.sqrt(-2 * np.log(((word >> 40) + 1) / 2**24))
        angle = 2 * np.pi * ((word >> 8) % 2**24) / 2**24
        expected = 1 + radius * np.exp(1j * angle) / np.sqrt(2)
        assert add_noise(channel, 0.0, 11, KEYS[:1], 4)[0, 0, 0, antenna] == pytest.approx(expected, rel=1e-5)


def mix_word(word: int) -> int:
    """The finaliser of splitmix64: the generator's first output from a state that is one increment behind."""
    return splitmix64((word - 0x9E3779B97F4A7C15) % 2**64, 1)[0]
