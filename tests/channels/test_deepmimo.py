"""Import of DeepMIMO scenarios. Channels need the package deepmimo and are skipped without it; the rest is not."""

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import channels.deepmimo
from channels.deepmimo import QUANTITIES, ScenarioOptions, find_sets, import_deepmimo
from channels.errors import UserError
from channels.store import ChannelStore

CANYON = Path(__file__).parents[2].parent / "shared" / "data" / "deepmimo_canyon_rt"
PAIR = "t000_tx000_r001"
LIGHT = 299_792_458.0

needs_data = pytest.mark.skipif(not CANYON.is_dir(), reason="the DeepMIMO scenario is not beside the repository")


def quiet(*_: object) -> None:
    pass


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
    return write_scenario(tmp_path / "Free_Space")


def test_what_is_found_without_the_package(scenario: Path):
    (found,) = find_sets(scenario, ScenarioOptions(antennas=8, subcarriers=16))
    assert found.spec.name == "Free_Space-t0-tx0-r1-8x16"
    assert found.spec.shape == (1, 16, 8)
    assert (found.spec.fc_ghz, found.spec.subcarrier_spacing_khz) == (3.5, 30.0)
    assert (found.spec.los, found.spec.scenario) == (None, "Free_Space")
    assert found.counts == {"train": 4, "val": 1}


def test_users_without_a_path_are_left_out_and_val_is_one_end_of_the_scene(scenario: Path):
    (found,) = find_sets(scenario, ScenarioOptions(val_share=0.4))
    assert found.users["train"].tolist() == [0, 1, 3]
    assert found.users["val"].tolist() == [4, 5]
    (test_only,) = find_sets(scenario, ScenarioOptions(role="zeroshot"))
    assert {split: users.tolist() for split, users in test_only.users.items()} == {"test": [0, 1, 3, 4, 5]}


@needs_data
def test_the_real_scenario_without_the_package():
    (found,) = find_sets(CANYON, ScenarioOptions(role="zeroshot"))
    assert found.counts == {"test": 88}
    assert found.los[found.users["test"]].sum() == 70
    assert found.position.shape == (100, 3)


@pytest.mark.parametrize("name", ["params.json", *(f"{name}_{PAIR}.npz" for name in QUANTITIES)])
def test_a_missing_file_is_named(scenario: Path, tmp_path: Path, name: str):
    (scenario / name).unlink()
    with pytest.raises(UserError, match="a file is missing") as caught:
        import_deepmimo(scenario, tmp_path / "store", ScenarioOptions(), quiet)
    assert str(scenario / name) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_damaged_file_is_named(scenario: Path):
    file = scenario / f"phase_{PAIR}.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"phase_.*cannot be read"):
        find_sets(scenario, ScenarioOptions())


def test_a_pickled_array_is_not_loaded(scenario: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("a pickle was loaded",)

    trap = np.empty((6, 1), object)
    trap[:] = Trap()
    np.savez(scenario / f"power_{PAIR}.npz", power=trap)
    with pytest.raises(UserError, match="cannot be read"):
        find_sets(scenario, ScenarioOptions())


def test_the_package_unpickles_nothing_of_a_scenario(scenario: Path, tmp_path: Path):
    """It would: it reads with allow_pickle, and the scene's vertices are none of the files that are checked."""
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    trap = np.empty(1, object)
    trap[0] = Toucher(str(tmp_path / "touched"))
    np.savez(scenario / "vertices.npz", vertices=trap)
    import_deepmimo(scenario, tmp_path / "store", ScenarioOptions(antennas=4, subcarriers=8), quiet)
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
    ],
)
def test_parameters_that_cannot_be_used_are_refused(scenario: Path, change: dict[str, Any], message: str):
    file = scenario / "params.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        find_sets(scenario, ScenarioOptions())


@pytest.mark.parametrize(
    ("options", "field"),
    [({"role": "training"}, "role"), ({"val_share": 1.0}, "val_share"), ({"paths": 0}, "paths")],
)
def test_bad_options_are_refused(options: dict[str, Any], field: str):
    with pytest.raises(UserError, match=field):
        ScenarioOptions(**options)


@pytest.mark.parametrize("options", [{"antennas": 0}, {"subcarriers": 0}, {"subcarrier_spacing_khz": 0.0}])
def test_a_zero_dimension_is_refused(scenario: Path, options: dict[str, Any]):
    with pytest.raises(UserError, match="Free_Space"):
        find_sets(scenario, ScenarioOptions(**options))


def test_no_folder_and_nobody_reached(tmp_path: Path, scenario: Path):
    with pytest.raises(UserError, match="no such folder"):
        find_sets(tmp_path / "nowhere", ScenarioOptions())
    np.savez(scenario / f"aoa_az_{PAIR}.npz", aoa_az=np.full((6, 1), np.nan, np.float32))
    with pytest.raises(UserError, match="no user is reached"):
        find_sets(scenario, ScenarioOptions())


def test_without_the_package_one_line_says_how_to_get_it(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "deepmimo":
            raise ModuleNotFoundError(name="deepmimo")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'wavetrain\[deepmimo\]'"):
        import_deepmimo(scenario, tmp_path / "store", ScenarioOptions(), quiet)
    assert not (tmp_path / "store").exists()


def test_channels_of_free_space(scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Against the formula: one path, its power spread over the subcarriers, a plane wave over the array."""
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    reports: list[tuple[str, int, int]] = []
    options = ScenarioOptions(antennas=4, subcarriers=16, rotation_deg=(0.0, 0.0, 0.0), val_share=0.4)
    import_deepmimo(scenario, tmp_path / "store", options, lambda *report: reports.append(report))
    assert capsys.readouterr().out == ""
    assert reports == [("Free_Space-t0-tx0-r1-4x16", 5, 5)]
    store = ChannelStore.open(tmp_path / "store")
    channel = store.read(reports[0][0], "val", np.arange(2))
    assert channel.shape == (2, 1, 16, 4)
    assert np.allclose(np.abs(channel) ** 2, 1e-6 / 16, rtol=1e-5)
    delay = np.array([50.0, 60.0]) / LIGHT
    slope = np.angle(channel[:, 0, 1, 0] / channel[:, 0, 0, 0])
    assert np.allclose(slope, -2 * np.pi * 30e3 * delay, rtol=1e-4)
    # North is along the array, half a wavelength an element: half a turn.
    turns = np.angle(channel[:, 0, 0, 1] / channel[:, 0, 0, 0]) / np.pi
    assert np.allclose(np.abs(turns), 1, atol=1e-4)
    labels = store.labels(reports[0][0], "val", np.arange(2))
    assert labels["los"].tolist() == [True, True]
    assert labels["position_m"].tolist() == [[0, 50, 0], [0, 60, 0]]


@needs_data
def test_the_real_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    copy = shutil.copytree(CANYON, tmp_path / "Upper Case")
    monkeypatch.setattr(channels.deepmimo, "SLICE_SAMPLES", 30)
    with pytest.raises(UserError, match="cannot be a folder"):
        find_sets(copy, ScenarioOptions())
    copy = copy.rename(tmp_path / "Canyon")
    import_deepmimo(copy, tmp_path / "store", ScenarioOptions(), quiet)
    import_deepmimo(copy, tmp_path / "store", ScenarioOptions(), quiet)
    store = ChannelStore.open(tmp_path / "store")
    (name,) = store.sets
    channel = store.read(name, "train", np.arange(71))
    assert channel.shape == (71, 1, 32, 32)
    assert np.isfinite(channel).all()
    labels = [store.labels(name, split, np.arange(count))["los"] for split, count in (("train", 71), ("val", 17))]
    assert sum(int(los.sum()) for los in labels) == 70
