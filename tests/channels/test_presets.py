from collections import Counter

import numpy as np
import pytest

from channels.errors import UserError
from channels.presets import load_preset, preset_names
from channels.spec import SCENARIOS, ChannelSpec


def tokens(spec: ChannelSpec) -> int:
    assert all(edge % 4 == 0 for edge in spec.shape)
    return int(np.prod(spec.shape)) // 64


def test_names():
    assert preset_names() == ("demo", "hetercsi", "motivation", "wimamba")
    with pytest.raises(UserError, match="'hetercsi'"):
        load_preset("heterCSI")


def test_published_token_lengths():
    preset = load_preset("hetercsi")
    lengths = [tokens(spec) for spec in preset.pretrain]
    assert Counter(lengths) == {96: 1, 128: 2, 192: 3, 256: 18, 384: 12, 512: 3, 768: 1}
    assert np.mean(lengths) == pytest.approx(311.2)
    zeroshot = [tokens(spec) for spec in preset.zeroshot]
    assert zeroshot == [256, 256, 96, 384, 384, 384, 256, 768, 256, 384, 384, 768]


def test_published_names_and_doppler():
    preset = load_preset("hetercsi")
    assert [spec.name for spec in preset.pretrain] == [f"P{number:02d}" for number in range(1, 41)]
    assert [spec.name for spec in preset.zeroshot] == [f"D{number}" for number in range(1, 13)]
    doppler = [
        spec.speed_kmh[1] / 3.6 * spec.fc_ghz * 1e9 / 299_792_458 * spec.slot_ms / 1e3 for spec in preset.zeroshot
    ]
    published = [0.011, 0.023, 0.049, 0.241, 0.067, 0.434, 0.117, 0.491, 0.486, 0.097, 0.230, 0.269]
    assert doppler == pytest.approx(published, abs=6e-4)


def test_motivation_sets_of_the_public_code():
    """PAPERS 1.2: A, B, C and D of Fig. 1c."""
    sets = load_preset("motivation").pretrain
    assert [tokens(spec) for spec in sets] == [192, 512, 192, 96]
    assert sets[0].shape == sets[2].shape == (24, 128, 4)
    assert [spec.fc_ghz for spec in sets] == [1.5, 1.5, 4.9, 2.5]


def test_demo_scales():
    preset = load_preset("demo")
    specs = (*preset.pretrain, *preset.zeroshot)
    assert len(preset.pretrain) >= 6 and len(preset.zeroshot) >= 3
    assert len({tokens(spec) for spec in preset.pretrain}) >= 5
    for spec in specs:
        slots, subcarriers, antennas = spec.shape
        assert 8 <= slots <= 16 and 16 <= subcarriers <= 32 and 4 <= antennas <= 8 and 8 <= tokens(spec) <= 64
    assert not {spec.fc_ghz for spec in preset.pretrain} & {spec.fc_ghz for spec in preset.zeroshot}


def test_preset_sets_can_be_made_and_are_named_once():
    for name in preset_names():
        specs = (*load_preset(name).pretrain, *load_preset(name).zeroshot)
        assert all(spec.scenario in SCENARIOS and spec.los is not None for spec in specs)
        assert len({spec.name for spec in specs}) == len(specs)


def test_wimamba_has_the_twenty_published_pairs():
    """PAPERS 3.3: (antennas, subcarriers) of city 0 to 19; single snapshots."""
    pairs = [(spec.antennas, spec.subcarriers) for spec in load_preset("wimamba").pretrain]
    assert len(set(pairs)) == 20
    assert pairs[:6] == [(8, 32), (8, 64), (8, 128), (8, 256), (8, 512), (8, 1024)]
    assert pairs[-2:] == [(128, 32), (128, 64)]
    everything = load_preset("wimamba")
    assert {spec.slots for spec in (*everything.pretrain, *everything.zeroshot)} == {1}
    assert not set(pairs) & {(spec.antennas, spec.subcarriers) for spec in everything.zeroshot}
