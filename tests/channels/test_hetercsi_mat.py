from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

import channels.hetercsi_mat
from channels.catalogue import import_hetercsi
from channels.errors import UserError
from channels.hetercsi_mat import find_sets
from channels.presets import load_preset
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from channels.verify import verify

Draw = Callable[..., np.ndarray]
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "quadriga"
COMPLEX = np.dtype([("real", "<f4"), ("imag", "<f4")])
D3 = next(spec for spec in load_preset("hetercsi").zeroshot if spec.name == "D3")

needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the HeterCSI sample files are not beside the repository")


def quiet(*_: object) -> None:
    pass


def write_split(folder: Path, split: str, channel: np.ndarray, **how: object) -> None:
    """A data file as MATLAB writes it: (A, K, T, N) and a speed of 0, 1, 2, ... km/h."""
    folder.mkdir(parents=True, exist_ok=True)
    compound = np.empty(channel.shape[::-1], COMPLEX)
    compound["real"], compound["imag"] = channel.real.T, channel.imag.T
    with h5py.File(folder / f"{split}_data.mat", "w", userblock_size=512) as file:
        file.create_dataset(f"H_{split}", data=compound, **how)
        file[f"speed_{split}"] = np.arange(float(len(channel)))[None]


def write_config(folder: Path, spec: ChannelSpec, **changes: object) -> None:
    sight = "LOS" if spec.los else "NLOS"
    values = {
        "fc": spec.fc_ghz * 1e9,
        "K": float(spec.subcarriers),
        "delta_f": spec.subcarrier_spacing_khz * 1e3,
        "T": float(spec.slots),
        "delta_t": spec.slot_ms / 1e3,
        "UPA": [float(spec.rows), float(spec.cols)],
        "scenario": f"3GPP_38.901_{spec.scenario}_{sight}",
    }
    savemat(folder / "config.mat", values | changes)


@pytest.fixture
def source(tmp_path: Path, noise: Draw) -> Path:
    """A source of one zero-shot set, D3, of five samples."""
    folder = tmp_path / "source" / "zeroshot" / "D3"
    write_split(folder, "test", noise(5, *D3.shape))
    write_config(folder, D3)
    return tmp_path / "source"


def test_import_in_slices(tmp_path: Path, noise: Draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channels.hetercsi_mat, "SLICE_SAMPLES", 4)
    channel = noise(11, *D3.shape)
    write_split(tmp_path / "source/zeroshot/D3", "test", channel)
    import_hetercsi(tmp_path / "source", tmp_path / "store", quiet)
    store = ChannelStore.open(tmp_path / "store")
    assert store.sets["D3"].spec == D3 and store.sets["D3"].role == "zeroshot"
    indices = np.array([10, 0, 3, 4])
    np.testing.assert_array_equal(store.read("D3", "test", indices), channel[indices])
    np.testing.assert_array_equal(store.labels("D3", "test", indices)["speed_kmh"], indices)


def test_layouts(source: Path):
    for place in (source, source / "zeroshot", source / "zeroshot" / "D3"):
        found = find_sets(place)
        assert [(item.spec.name, item.role, dict(item.counts)) for item in found] == [("D3", "zeroshot", {"test": 5})]


def test_set_that_is_not_published(tmp_path: Path, noise: Draw):
    folder = tmp_path / "own"
    write_split(folder, "train", noise(3, 4, 8, 2))
    own = ChannelSpec.from_mapping(
        D3.to_mapping() | {"name": "own", "slots": 4, "subcarriers": 8, "rows": 1, "cols": 2, "los": True}, "test"
    )
    write_config(folder, own)
    found = find_sets(folder)[0]
    assert found.spec == ChannelSpec.from_mapping(own.to_mapping() | {"speed_kmh": [0, 2]}, "test")
    assert found.role == "pretrain"
    (folder / "config.mat").unlink()
    with pytest.raises(UserError, match=r"own.*config\.mat"):
        find_sets(folder)


def test_interrupted_import_goes_on(source: Path, tmp_path: Path, noise: Draw):
    store = tmp_path / "store"
    import_hetercsi(source, store, quiet)
    write_split(source / "pretrain/P05", "train", noise(2, 24, 64, 4))
    reports: list[tuple[str, int, int]] = []
    import_hetercsi(source, store, lambda *report: reports.append(report))
    assert reports == [("P05", 2, 2), ("D3", 5, 5)]
    assert list(ChannelStore.open(store).sets) == ["D3", "P05"]


def corrupt(folder: Path, noise: Draw) -> None:
    file = folder / "test_data.mat"
    write_split(folder, "test", noise(40, *D3.shape), chunks=(8, 32, 24, 1), compression="gzip")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)


def claim_a_billion(folder: Path) -> None:
    with h5py.File(folder / "test_data.mat", "w") as file:
        file.create_dataset("H_test", (8, 32, 24, 10**9), COMPLEX, chunks=(8, 32, 24, 1))


def without_variable(folder: Path) -> None:
    with h5py.File(folder / "test_data.mat", "w") as file:
        file["other"] = 1


def real_numbers(folder: Path) -> None:
    with h5py.File(folder / "test_data.mat", "w") as file:
        file["H_test"] = np.ones((8, 32, 24, 2), np.float32)


def cut(folder: Path) -> None:
    file = folder / "test_data.mat"
    file.write_bytes(file.read_bytes()[:5000])


BROKEN: dict[str, tuple[Callable[[Path, Draw], object], str]] = {
    "text": (lambda folder, _: (folder / "test_data.mat").write_text("hello"), "cannot be read"),
    "cut": (lambda folder, _: cut(folder), "cannot be read"),
    "corrupt inside": (corrupt, "cannot be read"),
    "no variable": (lambda folder, _: without_variable(folder), "H_test"),
    "real": (lambda folder, _: real_numbers(folder), "not complex"),
    "empty": (lambda folder, _: write_split(folder, "test", np.ones((0, *D3.shape), np.complex64)), "no sample"),
    "other shape": (lambda folder, noise: write_split(folder, "test", noise(2, 24, 32, 4)), "(24, 32, 8)"),
    "zeros": (lambda folder, _: write_split(folder, "test", np.zeros((2, *D3.shape), np.complex64)), "sample 0"),
    "a billion samples": (lambda folder, _: claim_a_billion(folder), "sample 0"),
    "config is text": (lambda folder, _: (folder / "config.mat").write_text("fc = 1"), "config.mat"),
    "config lacks": (lambda folder, _: savemat(folder / "config.mat", {"fc": 1e9}), "config.mat"),
    "config disagrees": (lambda folder, _: write_config(folder, D3, fc=28e9), "fc_ghz is 28.0 here, but 42.0"),
    "config has NaN": (lambda folder, _: write_config(folder, D3, fc=np.nan), "fc_ghz"),
    "config has half a slot": (lambda folder, _: write_config(folder, D3, T=23.5), "slots"),
    "scenario": (lambda folder, _: write_config(folder, D3, scenario="Freespace"), "Freespace"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_source_is_named_and_leaves_nothing(source: Path, tmp_path: Path, noise: Draw, kind: str):
    damage, words = BROKEN[kind]
    damage(source / "zeroshot" / "D3", noise)
    with pytest.raises(UserError) as caught:
        import_hetercsi(source, tmp_path / "store", quiet)
    assert words in str(caught.value) and "D3" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_no_source(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere.*no such folder"):
        find_sets(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no HeterCSI set"):
        find_sets(tmp_path)


@needs_data
def test_real_set_is_imported_as_it_is(tmp_path: Path):
    source = REAL / "pretrain" / "P05"
    import_hetercsi(source, tmp_path / "store", quiet)
    store = ChannelStore.open(tmp_path / "store")
    stored = store.sets["P05"]
    assert stored.spec in load_preset("hetercsi").pretrain and stored.role == "pretrain"
    assert verify(tmp_path / "store") == []
    for split in ("train", "val"):
        with h5py.File(source / f"{split}_data.mat") as file:
            parts, speed = file[f"H_{split}"][:], file[f"speed_{split}"][0]
        direct = (parts["real"] + 1j * parts["imag"]).transpose(3, 2, 1, 0)
        indices = np.arange(stored.splits[split].count)
        np.testing.assert_array_equal(store.read("P05", split, indices), direct)
        np.testing.assert_allclose(store.labels("P05", split, indices)["speed_kmh"], speed, rtol=1e-6)


@needs_data
def test_all_real_sets_agree_with_the_preset():
    preset = load_preset("hetercsi")
    found = find_sets(REAL)
    assert len(found) == 30
    assert {item.spec for item in found} <= {*preset.pretrain, *preset.zeroshot}
    assert [item.spec.name for item in found if item.role == "zeroshot"] == [f"D{number}" for number in range(1, 13)]


@needs_data
def test_made_channels_are_as_hard_to_predict_as_the_published_ones(tmp_path: Path):
    """Repeating the last slot: NMSE of the second half on D1, the slowest set, and on D12, a fast one."""
    from channels.make import make_channels

    def repeat_last(channel: np.ndarray) -> float:
        half = channel.shape[1] // 2
        error = np.sum(np.abs(channel[:, half:] - channel[:, half - 1 : half]) ** 2, axis=(1, 2, 3))
        return 10 * np.log10(np.mean(error / np.sum(np.abs(channel[:, half:]) ** 2, axis=(1, 2, 3))))

    for name in ("D1", "D12"):
        item = find_sets(REAL / "zeroshot" / name)[0]
        published = next(item.samples("test")).channel
        made = next(make_channels(item.spec, "test", 64, 0)).channel
        assert repeat_last(made) == pytest.approx(repeat_last(published), abs=4)
