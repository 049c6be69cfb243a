import json
from dataclasses import FrozenInstanceError, replace

import pytest

from channels.errors import UserError
from channels.presets import load_preset
from channels.spec import ChannelSpec


def test_derived_quantities(spec: ChannelSpec):
    assert replace(spec, rows=2, cols=4).antennas == 8
    assert replace(spec, rows=2, cols=4).shape == (3, 6, 8)


def test_mapping_round_trip(spec: ChannelSpec):
    assert ChannelSpec.from_mapping(spec.to_mapping(), "here") == spec
    assert ChannelSpec.from_mapping(spec.to_mapping() | {"los": None, "scenario": "O1"}, "here").los is None


def test_is_frozen(spec: ChannelSpec):
    with pytest.raises(FrozenInstanceError):
        spec.slots = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc_gh": 2.5}, ["'fc_gh'", "'fc_ghz'"]),
        ({"slots": 0}, ["slots", "0"]),
        ({"slots": 1.5}, ["slots", "1.5"]),
        ({"rows": True}, ["rows", "True"]),
        ({"fc_ghz": -2.5}, ["fc_ghz", "-2.5"]),
        ({"fc_ghz": "2.5"}, ["fc_ghz", "'2.5'"]),
        ({"slot_ms": float("nan")}, ["slot_ms", "nan"]),
        ({"los": "yes"}, ["los", "'yes'"]),
        ({"speed_kmh": [30, 3]}, ["speed_kmh", "[30, 3]"]),
        ({"speed_kmh": 30}, ["speed_kmh", "30"]),
        ({"scenario": ""}, ["scenario"]),
        ({"name": "../S1"}, ["name", "../S1"]),
    ],
)
def test_bad_field_is_named(spec: ChannelSpec, change: dict, words: list[str]):
    with pytest.raises(UserError) as caught:
        ChannelSpec.from_mapping(spec.to_mapping() | change, "sets.yaml")
    assert "sets.yaml" in str(caught.value) and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "; " in str(caught.value), "how to mend it"


def test_what_says_a_wrong_value_is_named(spec: ChannelSpec):
    change = {"fc_ghz": "x" * 999}
    expected = r"^a\.npy, --spec p\.yaml \(S1\): fc_ghz must .{,99}; for example fc_ghz: 3\.5$"
    with pytest.raises(UserError, match=expected):
        ChannelSpec.from_mapping(spec.to_mapping() | change, "a.npy", sources={"fc_ghz": "--spec p.yaml"})


def test_missing_key_and_wrong_kind(spec: ChannelSpec):
    rest = spec.to_mapping()
    del rest["slot_ms"]
    with pytest.raises(UserError, match="slot_ms"):
        ChannelSpec.from_mapping(rest, "sets.yaml")
    with pytest.raises(UserError, match="mapping"):
        ChannelSpec.from_mapping(["S1"], "sets.yaml")


def test_whole_numbers_are_floats_where_floats_are_meant():
    whole = ChannelSpec(
        name="A", fc_ghz=2, subcarriers=16, subcarrier_spacing_khz=30, slots=8, slot_ms=1, rows=1, cols=4,
        scenario="UMi", los=True, speed_kmh=(3, 30),
    )  # fmt: skip
    again = ChannelSpec.from_mapping(whole.to_mapping(), "test")
    assert json.dumps(again.to_mapping()) == json.dumps(whole.to_mapping())
    assert '"slot_ms": 1.0' in json.dumps(whole.to_mapping())


def test_the_users_antenna_is_optional():
    known = load_preset("hetercsi").pretrain[0]
    assert "user_antenna" not in known.to_mapping(), "a store made before the field was there keeps its fingerprint"
    chosen = ChannelSpec.from_mapping(known.to_mapping() | {"user_antenna": "omnidirectional"}, "here")
    assert chosen.to_mapping()["user_antenna"] == "omnidirectional"
    with pytest.raises(UserError, match=r"here.*user_antenna.*directional.*'horn'"):
        ChannelSpec.from_mapping(known.to_mapping() | {"user_antenna": "horn"}, "here")


@pytest.mark.parametrize("key", ["fc_ghz", "subcarrier_spacing_khz", "slot_ms"])
def test_a_number_too_large_for_a_float_is_named(spec: ChannelSpec, key: str):
    with pytest.raises(UserError, match=rf"here \(S1\): {key} must be a number above 0"):
        ChannelSpec.from_mapping(spec.to_mapping() | {key: 10**400}, "here")
