from dataclasses import replace

import numpy as np
import pytest
import torch

from channels.errors import UserError
from channels.make import CHUNK_SAMPLES, as_made, draw_drops, make_channels
from channels.presets import load_preset
from channels.spec import SCENARIOS, ChannelSpec

LIGHT = 299_792_458.0


def make(spec: ChannelSpec, count: int = CHUNK_SAMPLES, seed: int = 0, split: str = "train") -> np.ndarray:
    return np.concatenate([chunk.channel for chunk in make_channels(spec, split, count, seed)])


def spec_of(scenario: str, los: bool, **changes: object) -> ChannelSpec:
    published = load_preset("hetercsi").pretrain[1]
    small = replace(published, fc_ghz=3.5, subcarriers=32, slots=8, rows=2, cols=2, speed_kmh=(3.0, 50.0))
    return replace(small, scenario=scenario, los=los, **changes)


def unit(channel: np.ndarray) -> np.ndarray:
    return channel / np.sqrt(np.mean(np.abs(channel) ** 2, axis=(1, 2, 3), keepdims=True))


@pytest.mark.parametrize("los", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario(scenario: str, los: bool):
    channel = make(spec_of(scenario, los), 20)
    assert channel.shape == (20, 8, 32, 4) and channel.dtype == np.complex64
    assert np.isfinite(channel).all()
    power = 10 * np.log10(np.mean(np.abs(channel) ** 2, axis=(1, 2, 3)))
    # Path loss of a cell, and up to 30 dB less where the user looks away; every drop has its own.
    assert power.min() > -170 and power.max() < -30 and np.std(power) > 0.5
    assert np.ptp(np.abs(channel), axis=2).min() > 0, "frequency-selective"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_line_of_sight_dominates(scenario: str):
    """Share of power in the strongest bin of the (time, frequency, antenna) Fourier transform."""

    def dominance(los: bool) -> float:
        wide = spec_of(scenario, los, subcarrier_spacing_khz=480.0)
        bins = np.abs(np.fft.fftn(unit(make(wide)), axes=(1, 2, 3), norm="ortho")) ** 2
        return float(np.mean(bins.max(axis=(1, 2, 3)) / bins.sum(axis=(1, 2, 3))))

    assert dominance(True) > 1.2 * dominance(False)


def test_doppler_is_bounded_by_the_speed():
    fast = spec_of("UMi", False, slots=64, slot_ms=0.5, speed_kmh=(50.0, 50.0), subcarriers=4)
    largest = 50 / 3.6 * 3.5e9 / LIGHT
    window = np.hanning(64)[None, :, None, None]
    spectrum = np.mean(np.abs(np.fft.fft(unit(make(fast)) * window, axis=1)) ** 2, axis=(0, 2, 3))
    frequency = np.abs(np.fft.fftfreq(64, 0.5e-3))
    resolution = 2 / (64 * 0.5e-3)
    assert spectrum[frequency > largest + resolution].sum() < 1e-3 * spectrum.sum()
    assert spectrum[frequency > largest / 2].sum() > 0.2 * spectrum.sum()


def test_a_standing_user_has_a_constant_channel():
    channel = make(spec_of("UMa", False, speed_kmh=(0.0, 0.0)), 4)
    np.testing.assert_allclose(channel, np.repeat(channel[:, :1], 8, axis=1), rtol=1e-3, atol=1e-3 * abs(channel).max())


def test_delays_are_positive_and_spread_as_in_the_standard():
    wide = spec_of("UMi", False, subcarriers=256, subcarrier_spacing_khz=240.0, slots=1)
    tapered = unit(make(wide, 128)) * np.hanning(256)[None, None, :, None]
    # exp(-2 pi i f tau) puts a path of delay tau at tau * bandwidth of the inverse transform; four bins make room
    # for the window's main lobe around the first path.
    profile = np.mean(np.abs(np.roll(np.fft.ifft(tapered, axis=2), 4, axis=2)) ** 2, axis=(1, 3))
    profile /= profile.sum(axis=1, keepdims=True)
    delay = (np.arange(256) - 4) / (wide.subcarriers * wide.subcarrier_spacing_khz * 1e3)
    assert profile[:, -64:].sum(axis=1).mean() < 0.01, "power before the first path"
    mean = profile @ delay
    spread = np.sqrt(profile @ delay**2 - mean**2)
    # TR 38.901 v15 table 7.5-6, UMi street canyon NLOS: lg(DS / 1 s) has mean -0.24 lg(1 + fc) - 6.83, fc in GHz.
    assert 0.5 < np.median(spread) / 10 ** (-0.24 * np.log10(1 + 3.5) - 6.83) < 2


def test_antenna_order_is_column_by_column():
    """Users are all below the station: the phase from row to row is the same, from column to column it is not."""
    channel = make(spec_of("UMa", True, rows=4, cols=2, user_antenna="omnidirectional"))
    grid = channel.reshape(*channel.shape[:3], 2, 4)

    def concentration(products: np.ndarray) -> float:
        steps = products.reshape(len(products), -1).sum(axis=1)
        return float(np.abs(np.mean(steps / np.abs(steps))))

    upwards = grid[..., 1:] * np.conj(grid[..., :-1])
    # Of two rows the upper one is further from a user below the horizon: its phase lags by 0.5 rad at 30 m and 170 m.
    assert -0.7 < np.angle(upwards.sum()) < -0.3
    rows = concentration(upwards)
    cols = concentration(grid[..., 1:, :] * np.conj(grid[..., :-1, :]))
    assert rows > 0.99 and cols < 0.97


def test_seed_split_and_set_decide_alone():
    spec = spec_of("UMi", True)
    first = make(spec, 10)
    np.testing.assert_array_equal(make(spec, 10), first)
    np.testing.assert_array_equal(make(spec, CHUNK_SAMPLES + 3)[:10], first)
    for other in (make(spec, 10, seed=1), make(spec, 10, split="val"), make(replace(spec, name="other"), 10)):
        assert np.abs(unit(other) - unit(first)).mean() > 0.5
    assert np.abs(unit(make(spec, CHUNK_SAMPLES + 3))[-3:] - unit(first)[:3]).mean() > 0.5


def test_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3)
    state = np.random.get_state()[1].copy()
    torch.manual_seed(5)
    make(spec_of("UMi", True), 2)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("scenario", ["UMi", "Indoor"])
def test_drops(scenario: str):
    drops = draw_drops(spec_of(scenario, True, speed_kmh=(30.0, 60.0)), 2000, np.random.default_rng(0))
    speed = np.linalg.norm(drops.velocity, axis=1) * 3.6
    np.testing.assert_allclose(speed, drops.speed_kmh, rtol=1e-4)
    assert 30 <= speed.min() < 31 and 59 < speed.max() <= 60
    heading = np.arctan2(drops.velocity[:, 1], drops.velocity[:, 0])
    assert abs(np.exp(1j * heading).mean()) < 0.05
    distance = np.linalg.norm(drops.position[:, :2], axis=1)
    assert distance.min() >= 150 and distance.max() <= 195


def test_what_cannot_be_made():
    spec = spec_of("UMi", True)
    for bad, word in ((replace(spec, scenario="O1"), "'O1'"), (replace(spec, los=None), "los")):
        with pytest.raises(UserError, match=word):
            next(make_channels(bad, "train", 1, 0))
    with pytest.raises(UserError, match=r"cuda:99.*cpu"):
        next(make_channels(spec, "train", 1, 0, device="cuda:99"))


def test_the_user_looks_where_it_goes():
    """An element of 65 degrees shows the paths in front of the user: those that shift the carrier upwards."""
    moving = spec_of("UMi", False, slots=64, slot_ms=0.5, speed_kmh=(50.0, 50.0), subcarriers=4)

    def upwards(user_antenna: str | None) -> float:
        channel = unit(make(replace(moving, user_antenna=user_antenna))) * np.hanning(64)[None, :, None, None]
        spectrum = np.mean(np.abs(np.fft.fft(channel, axis=1)) ** 2, axis=(0, 2, 3))
        frequency = np.fft.fftfreq(64, 0.5e-3)
        return float(spectrum[frequency > 0].sum() / spectrum[frequency != 0].sum())

    assert upwards(None) == upwards("directional") > 0.85
    assert 0.3 < upwards("omnidirectional") < 0.7


def test_a_store_says_which_antenna_its_users_have():
    spec = spec_of("UMi", False)
    assert as_made(spec).user_antenna == "directional"
    assert as_made(replace(spec, user_antenna="omnidirectional")).user_antenna == "omnidirectional"
