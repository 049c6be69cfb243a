"""Import of DeepMIMO scenarios. Channels need the package deepmimo and are skipped without it."""

import builtins
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import channels.importers.formats.deepmimo
from channels.errors import UserError
from channels.importers.formats.deepmimo_scenario import QUANTITIES
from channels.importers.formats.deepmimo_users import LIGHT, doppler_of
from channels.importers.found import FoundSet, SourceSplit
from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from channels.importers.write import import_source
from channels.store import ChannelStore
from tests.channels.importers.layouts import SHARED, labels, load, quiet, whole

CANYON = SHARED / "deepmimo_canyon_rt"
PAIR = "t000_tx000_r001"

needs_data = pytest.mark.skipif(not CANYON.is_dir(), reason="the DeepMIMO scenario is not beside the repository")


def write_scenario(folder: Path, users: int = 6) -> Path:
    """A scenario in free space: user i stands 10 (i + 1) m north of the transmitter, the third one in the dark."""
    folder.mkdir(parents=True)
    distance = 10.0 * np.arange(1, users + 1)
    dark = np.arange(users) == 2
    one = np.where(dark, np.nan, 1.0)[:, None].astype(np.float32)
    values = {
        "aoa_az": -90 * one,
        "aoa_el": 90 * one,
        "aod_az": 90 * one,
        "aod_el": 90 * one,
        "delay": one * distance[:, None] / LIGHT,
        "inter": 0 * one,
        "phase": 30 * one,
        "power": one * -60,
        "rx_pos": np.stack([0 * distance, distance, 0 * distance], axis=1),
        "tx_pos": np.zeros((1, 3)),
    }
    for name, value in values.items():
        np.savez(folder / f"{name}_{PAIR}.npz", **{name: value.astype(np.float32)})
    common = {"num_ant": 1, "dual_pol": False, "ant_rel_positions": [[0.0]] * 3, "array_orientation": [0, 0, 0]}
    sets = {
        "txrx_set_0": {"name": "bs", "id": 0, "id_orig": 0, "is_tx": True, "is_rx": False, "num_points": 1},
        "txrx_set_1": {"name": "ue", "id": 1, "id_orig": 1, "is_tx": False, "is_rx": True, "num_points": users},
    }
    parameters = {
        "version": "4.0.5",
        "rt_params": {"frequency": 3.5e9, "raytracer_name": "by hand", "raytracer_version": "0"},
        "txrx_sets": {key: {**one_set, **common, "num_active_points": users} for key, one_set in sets.items()},
        "materials": {},
        "scene": {"num_scenes": 1, "n_objects": 0, "n_vertices": 0, "n_faces": 0, "n_triangular_faces": 0},
    }
    (folder / "params.json").write_text(json.dumps(parameters))
    (folder / "objects.json").write_text("[]")
    np.savez(folder / "vertices.npz", vertices=np.zeros((0, 3), np.float32))
    return folder


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    return write_scenario(tmp_path / "Free_Space")


def find(source: Path, **options: Any) -> list[FoundSet]:
    return list(survey(source, ImportOptions(**options)).sets)


def rows(split: SourceSplit) -> list[int]:
    """Which users a split has: their distance is 10 m more than that of the user before."""
    return [round(float(y) / 10) - 1 for chunk in split.chunks() for y in chunk.labels["position_m"][:, 1]]


def test_what_is_found(scenario: Path):
    (found,) = find(scenario, antennas=8, subcarriers=16)
    assert found.name == "Free_Space-t0-tx0-r1-8x16"
    assert found.shape == (1, 16, 8)
    assert (found.spec.fc_ghz, found.spec.subcarrier_spacing_khz) == (3.5, 30.0)
    assert (found.spec.los, found.spec.scenario) == (None, "Free_Space")
    assert found.counts == {"train": 4, "val": 1}
    assert found.parameters["fc_ghz"].source == "params.json"


def test_users_without_a_path_are_counted_and_val_is_one_end_of_the_scene(scenario: Path):
    (found,) = find(scenario, val_share=0.4)
    assert {split: rows(part) for split, part in found.splits.items()} == {"train": [0, 1, 3], "val": [4, 5]}
    (test_only,) = find(scenario, role="zeroshot")
    assert {split: rows(part) for split, part in test_only.splits.items()} == {"test": [0, 1, 3, 4, 5]}
    assert found.notes == ("1 of 6 users are reached by no path",)
    (left,) = survey(scenario, ImportOptions()).left_out
    assert (left.what, left.why) == ("Free_Space: 1 users of Free_Space-t0-tx0-r1", "no path reaches them")


@needs_data
def test_the_real_scenario_is_found():
    (found,) = find(CANYON, role="zeroshot")
    assert found.counts == {"test": 88}
    assert "12 of 100 users" in found.notes[0]


@pytest.mark.parametrize("name", ["params.json", *(f"{name}_{PAIR}.npz" for name in QUANTITIES)])
def test_a_missing_file_is_named(scenario: Path, tmp_path: Path, name: str):
    (scenario / name).unlink()
    with pytest.raises(UserError, match="a file is missing") as caught:
        load(scenario, tmp_path / "store")
    assert str(scenario / name) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_damaged_file_is_named(scenario: Path):
    file = scenario / f"phase_{PAIR}.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"phase_.*cannot be read"):
        find(scenario)


def test_a_pickled_array_is_not_loaded(scenario: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("a pickle was loaded",)

    trap = np.empty((6, 1), object)
    trap[:] = Trap()
    np.savez(scenario / f"power_{PAIR}.npz", power=trap)
    with pytest.raises(UserError, match="cannot be read"):
        find(scenario)


def test_the_package_unpickles_nothing_of_a_scenario(scenario: Path, tmp_path: Path):
    """It would: it reads with allow_pickle, and the scene's vertices are none of the files that are checked."""
    trap = np.empty(1, object)
    trap[0] = Toucher(str(tmp_path / "touched"))
    np.savez(scenario / "vertices.npz", vertices=trap)
    load(scenario, tmp_path / "store", antennas=4, subcarriers=8)
    assert not (tmp_path / "touched").exists()


class Toucher:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": {"num_scenes": 3}}, "only static scenarios"),
        ({"scene": {}}, "not the parameters"),
        ({"txrx_sets": {"txrx_set_0": {}}}, "not the parameters"),
        ({"rt_params": {}}, "not the parameters"),
        ({"scene": {"num_scenes": math.inf}}, "not the parameters"),
        ({"txrx_sets": {"a": {"id": math.inf, "is_tx": True, "is_rx": False, "num_points": 1}}}, "not the parameters"),
        ({"rt_params": {"frequency": 10**400}}, "not the parameters"),
        ({"rt_params": {"frequency": 3.5}}, "frequency 3.5 is no frequency in Hz"),
        ({"txrx_sets": [1]}, "not the parameters"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(scenario: Path, change: dict[str, Any], message: str):
    file = scenario / "params.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        find(scenario)


def test_parameters_in_another_encoding_are_not_printed(scenario: Path):
    file = scenario / "params.json"
    file.write_bytes(b"\xff" + file.read_bytes() * 50)
    with pytest.raises(UserError, match=r"not the parameters .*at byte 0\);"):
        find(scenario)


@pytest.mark.parametrize(("options", "field"), [({"role": "training"}, "role"), ({"val_share": 1.0}, "val-share")])
def test_bad_options_are_refused(options: dict[str, Any], field: str):
    with pytest.raises(UserError, match=field):
        ImportOptions(**options)


@pytest.mark.parametrize("given", [{"rows": 2}, {"subcarriers": 0}, {"subcarriers": 10**9}, {"slot_ms": 0.0}])
def test_what_cannot_be_computed_is_refused(scenario: Path, given: dict[str, Any]):
    with pytest.raises(UserError, match=r"Free_Space|lab\.yaml"):
        find(scenario, given=GivenParameters("lab.yaml", given))


def test_nobody_reached(scenario: Path):
    np.savez(scenario / f"aoa_az_{PAIR}.npz", aoa_az=np.full((6, 1), np.nan, np.float32))
    with pytest.raises(UserError, match="no user is reached"):
        find(scenario)


def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scenario = write_scenario(tmp_path / "Free_Space")
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "deepmimo":
            raise ModuleNotFoundError(name="deepmimo")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert find(scenario)[0].counts == {"train": 4, "val": 1}
    with pytest.raises(UserError, match=r"pip install 'wavetrain\[deepmimo\]'"):
        load(scenario, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_channels_of_free_space(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Against the formula: one path, its power spread over the subcarriers, a plane wave over the array."""
    monkeypatch.setattr(channels.importers.formats.deepmimo, "ROTATION_DEG", (0.0, 0.0, 0.0))
    reports: list[tuple[str, int, int]] = []
    options = ImportOptions(antennas=4, subcarriers=16, val_share=0.4)
    import_source(scenario, tmp_path / "store", options, lambda *report: reports.append(report))
    assert capsys.readouterr().out == ""
    assert reports[-1] == ("Free_Space-t0-tx0-r1-4x16", 5, 5)
    store = ChannelStore.open(tmp_path / "store")
    channel = whole(store, reports[0][0], "val")
    assert channel.shape == (2, 1, 16, 4)
    assert np.allclose(np.abs(channel) ** 2, 1e-6 / 16, rtol=1e-5)
    delay = np.array([50.0, 60.0]) / LIGHT
    slope = np.angle(channel[:, 0, 1, 0] / channel[:, 0, 0, 0])
    assert np.allclose(slope, -2 * np.pi * 30e3 * delay, rtol=1e-4)
    # North is along the array, half a wavelength an element: half a turn.
    turns = np.angle(channel[:, 0, 0, 1] / channel[:, 0, 0, 0]) / np.pi
    assert np.allclose(np.abs(turns), 1, atol=1e-4)
    held = labels(store, reports[0][0], "val")
    assert held["los"].tolist() == [True, True]
    assert held["position_m"].tolist() == [[0, 50, 0], [0, 60, 0]]
    assert held["tx_position_m"].tolist() == [[0, 0, 0], [0, 0, 0]]


def write_extra(scenario: Path, name: str, values: np.ndarray) -> None:
    np.savez(scenario / f"{name}_{PAIR}.npz", **{name: values.astype(np.float32)})


def turn_per_slot(channel: np.ndarray) -> np.ndarray:
    """Phase from slot to slot, in turns [n, T - 1], which is the same on all subcarriers and antennas."""
    turn = np.angle(channel[:, 1:] / channel[:, :-1]) / (2 * np.pi)
    assert np.ptp(turn, axis=(2, 3)).max() < 1e-3
    return turn[:, :, 0, 0]


def test_slots_of_moving_users(scenario: Path, tmp_path: Path):
    """Waves arrive from the south, -90 degrees: who goes south at 10 m/s sees them faster by 10 / wavelength Hz."""
    velocity = np.zeros((6, 3))
    velocity[:, 1] = -10 * np.arange(6)
    write_extra(scenario, "rx_vel", velocity)
    given = GivenParameters("lab.yaml", {"slot_ms": 0.5})
    store = load(scenario, tmp_path / "store", antennas=4, subcarriers=8, slots=6, role="zeroshot", given=given)
    (name,) = store.sets
    assert store.sets[name].spec.shape == (6, 8, 4)
    assert store.sets[name].spec.speed_kmh == (0, 180)
    turns = turn_per_slot(whole(store, name, "test"))
    users = np.array([0, 1, 3, 4, 5])
    expected = 10 * users * 3.5e9 / LIGHT * 0.5e-3
    np.testing.assert_allclose(turns, np.broadcast_to(expected[:, None], turns.shape), atol=1e-3)


def test_slots_of_doppler_shifts_and_of_given_speeds(scenario: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"4 slots are asked for, but no user moves.*speed_kmh"):
        find(scenario, slots=4)
    given = GivenParameters("lab.yaml", {"slot_ms": 1.0, "speed_kmh": [36, 36]})
    store = load(scenario, tmp_path / "one", slots=4, role="zeroshot", given=given)
    (name,) = store.sets
    turns = turn_per_slot(whole(store, name, "test"))
    assert np.abs(turns).max() <= 10 * 3.5e9 / LIGHT * 1e-3 + 1e-3 and np.unique(turns.round(4)).size == 5
    assert np.array_equal(
        whole(load(scenario, tmp_path / "two", slots=4, role="zeroshot", given=given), name, "test"),
        whole(store, name, "test"),
    )
    write_extra(scenario, "doppler", np.full((6, 1), 100.0))
    store = load(scenario, tmp_path / "three", slots=4, role="zeroshot", given=given)
    np.testing.assert_allclose(turn_per_slot(whole(store, name, "test")), 0.1, atol=1e-4)


def test_doppler_formula():
    """A user who goes straight to where a path comes from sees v / wavelength, across it none, away the less."""
    velocity = np.array([[3.0, 0, 0]])
    shift = doppler_of(velocity, np.array([[0.0, 90, 180, 0]]), np.array([[90.0, 90, 90, 0]]), LIGHT)
    np.testing.assert_allclose(shift, [[3, 0, -3, 0]], atol=1e-12)


@pytest.mark.parametrize(
    "files",
    [
        ["params.mat", "BS1_BS.mat", "BS1_UE_0-1024.mat"],
        ["O1_60.params.mat", "O1_60.1.CIR.mat", "O1_60.1.DoD.mat"],
    ],
)
def test_older_versions_are_named_with_the_conversion(tmp_path: Path, files: list[str]):
    folder = tmp_path / "O1_60"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"O1_60: a DeepMIMO scenario of version 2 or 3.*download\('o1_60'\)"):
        find(tmp_path / "O1_60")
    write_scenario(tmp_path / "free")
    found = survey(tmp_path, ImportOptions())
    assert [one.name for one in found.sets] == ["free-t0-tx0-r1-32x32"]
    assert any("version 2 or 3" in left.why for left in found.left_out)


@needs_data
def test_the_real_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    monkeypatch.setattr(channels.importers.formats.deepmimo, "SLICE_SAMPLES", 30)
    copy = shutil.copytree(CANYON, tmp_path / "Upper Case")
    assert find(copy)[0].name == "Upper_Case-t0-tx0-r1-32x32"
    import_source(copy, tmp_path / "store", ImportOptions(), quiet)
    store = load(copy, tmp_path / "store")
    (name,) = store.sets
    channel = whole(store, name, "train")
    assert channel.shape == (71, 1, 32, 32)
    assert np.isfinite(channel).all()
    assert sum(int(labels(store, name, split)["los"].sum()) for split in ("train", "val")) == 70
