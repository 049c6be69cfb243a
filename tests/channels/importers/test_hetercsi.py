"""HeterCSI: roles, names, parameters from config.mat and presets, and every way in which a source can be wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

import channels.importers.reading
from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.found import FoundSet
from channels.importers.options import ImportOptions
from channels.importers.published import FULL_SCALE, published_at_full_scale
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from channels.presets import load_preset
from channels.store import ChannelStore
from channels.verify import verify
from tests.channels.importers.layouts import (
    COMPOUND,
    D3,
    P01,
    P03,
    P05,
    SHARED,
    TINY,
    config_of,
    draw,
    labels,
    load,
    whole,
    write_config,
    write_split,
)

REAL = SHARED / "quadriga"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the HeterCSI sample files are not beside the repository")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source of one zero-shot set, D3, of five samples."""
    folder = tmp_path / "source" / "zeroshot" / "D3"
    write_split(folder, "test", draw(5, *D3.shape))
    write_config(folder, D3)
    return tmp_path / "source"


@pytest.fixture
def published(source: Path) -> Path:
    """The same with two training sets beside it, one of them also called D3."""
    for name, spec in (("D1", P01), ("D3", P03)):
        folder = source / "train" / name
        for split, count in (("train", 3), ("val", 2), ("test", 1)):
            write_split(folder, split, draw(count, *spec.shape))
        write_config(folder, spec)
    return source


def find(source: Path, **options: object) -> list[FoundSet]:
    return list(survey(source, ImportOptions(**options)).sets)


def summary(source: Path, **options: object) -> list[tuple[str, str, str, dict[str, int]]]:
    return [(one.name, one.role, one.published, one.counts) for one in find(source, **options)]


def test_both_roles_with_all_their_splits(published: Path):
    splits = {"train": 3, "val": 2, "test": 1}
    train = [("P01", "pretrain", "train/D1", splits), ("P03", "pretrain", "train/D3", splits)]
    zeroshot = [("D3", "zeroshot", "zeroshot/D3", {"test": 5})]
    assert summary(published) == train + zeroshot
    assert summary(published / "train") == train
    assert summary(published / "zeroshot") == zeroshot
    assert summary(published / "train" / "D1") == train[:1]
    assert summary(published / "zeroshot" / "D3") == zeroshot
    assert summary(published / "train" / "D1" / "val_data.mat") == [("P01", "pretrain", "train/D1", {"val": 2})]


def test_a_held_out_set_keeps_the_training_samples_that_it_brings(source: Path, tmp_path: Path):
    for split, count in (("train", 4), ("val", 2)):
        write_split(source / "zeroshot" / "D3", split, draw(count, *D3.shape, seed=count))
    assert summary(source) == [("D3", "zeroshot", "zeroshot/D3", {"train": 4, "val": 2, "test": 5})]
    store = load(source, tmp_path / "store")
    assert store.sets["D3"].role == "zeroshot"
    np.testing.assert_array_equal(whole(store, "D3", "train"), draw(4, *D3.shape, seed=4))


def test_a_set_is_looked_up_by_role_and_name_without_config(published: Path):
    for file in published.rglob("config.mat"):
        file.unlink()
    found = find(published)
    assert [one.spec for one in found] == [P01, P03, D3]
    assert {one.parameters["fc_ghz"].source for one in found[:1]} == {"preset hetercsi P01"}


@pytest.mark.parametrize(("word", "role"), [("pretrain", "pretrain"), ("generalization", "zeroshot")])
def test_other_words_for_the_roles(published: Path, word: str, role: str):
    name = "train" if role == "pretrain" else "zeroshot"
    (published / name).rename(published / word)
    assert [one.role for one in find(published / word)] == [role] * (2 if role == "pretrain" else 1)


def test_a_store_holds_both_and_knows_them_again(published: Path, tmp_path: Path):
    for part in ("train/D1", "train", "zeroshot", "."):
        store = load(published / part, tmp_path / "store")
    assert list(store.sets) == ["P01", "P03", "D3"]
    assert [stored.origin["source"] for stored in store.sets.values()] == ["train/D1", "train/D3", "zeroshot/D3"]
    np.testing.assert_array_equal(whole(store, "P03", "val"), draw(2, *P03.shape))
    assert verify(tmp_path / "store") == []


def test_sets_that_are_not_the_published_ones_keep_apart(tmp_path: Path):
    for role, seed in (("train", 1), ("zeroshot", 2)):
        folder = tmp_path / "source" / role / "D1"
        write_split(folder, "test", draw(3, *TINY.shape, seed=seed))
        write_config(folder, TINY)
    found = find(tmp_path / "source")
    assert [one.name for one in found] == ["train-D1", "zeroshot-D1"]
    assert "not the published pretrain set of this name" in found[0].notes[0]
    assert "fc_ghz 42.0, published 1.5" in found[0].notes[0]
    store = load(tmp_path / "source", tmp_path / "store")
    np.testing.assert_array_equal(whole(store, "zeroshot-D1", "test"), draw(3, *TINY.shape, seed=2))
    # The name of a published set is kept for it.
    write_split(tmp_path / "other/zeroshot/D1", "test", draw(2, 16, 64, 16))
    assert list(load(tmp_path / "other", tmp_path / "store").sets) == ["train-D1", "zeroshot-D1", "D1"]


def test_flat_sets_with_their_own_parameters(tmp_path: Path):
    for name in ("D61", "D62"):
        for split in ("train", "val", "test"):
            write_split(tmp_path / "DATA" / name, split, draw(4, *TINY.shape))
        write_config(tmp_path / "DATA" / name, TINY)
    found = find(tmp_path / "DATA")
    assert [(one.name, one.role) for one in found] == [("D61", "pretrain"), ("D62", "pretrain")]
    assert found[0].spec == replace(TINY, name="D61", speed_kmh=(0, 3))
    sources = {key: parameter.source for key, parameter in found[0].parameters.items()}
    assert (sources["fc_ghz"], sources["speed_kmh"], sources["slots"]) == ("config.mat", "speed_*", "config.mat")
    assert [one.role for one in find(tmp_path / "DATA", role="zeroshot")] == ["zeroshot"] * 2


def test_a_flat_published_set_is_known_by_its_parameters(tmp_path: Path):
    folder = tmp_path / "D3"
    write_split(folder, "test", draw(2, *D3.shape))
    assert [(one.name, one.role) for one in find(folder)] == [("D3", "zeroshot")]
    write_split(folder, "train", draw(2, *D3.shape))
    write_config(folder, D3)
    assert [(one.name, one.role) for one in find(folder)] == [("D3", "zeroshot")]


def test_a_name_of_both_roles_needs_one(tmp_path: Path):
    """D8 to train on is (16, 64, 16) as D1 held out is; D9, D12: no two of a name have one scale, so make one up."""
    write_split(tmp_path / "D3", "test", draw(2, 4, 4, 4))
    with pytest.raises(UserError, match=r"D3.*nothing says which.*--role zeroshot"):
        find(tmp_path / "D3")
    with pytest.raises(UserError, match=r"\(24, 32, 8\)"):
        find(tmp_path / "D3", role="zeroshot")


def test_parameters_may_be_given(tmp_path: Path):
    write_split(tmp_path / "hall", "train", draw(2, *TINY.shape))
    with pytest.raises(UserError, match=r"hall: nothing says what.*config\.mat.*--spec FILE"):
        find(tmp_path / "hall")
    given = GivenParameters("lab.yaml", {"fc_ghz": 3.7}, {"hall": {"scenario": "Factory"}})
    (found,) = find(tmp_path / "hall", given=given)
    assert (found.spec.fc_ghz, found.spec.scenario, found.spec.speed_kmh) == (3.7, "Factory", (0, 1))
    assert found.parameters["fc_ghz"].source == "--spec lab.yaml"
    assert found.origin["assumed"] == ["cols", "los", "rows", "slot_ms", "subcarrier_spacing_khz"]
    with pytest.raises(UserError, match=r"lab\.yaml.*'other'.*hall"):
        find(tmp_path / "hall", given=GivenParameters("lab.yaml", {"fc_ghz": 3.7}, {"other": {}}))


def test_full_scale_is_said_only_of_it(source: Path, monkeypatch: pytest.MonkeyPatch):
    (found,) = find(source)
    assert (found.origin["published_role"], found.origin["published_name"]) == ("zeroshot", "D3")
    assert not published_at_full_scale(found.origin)
    monkeypatch.setattr("channels.importers.published.FULL_SCALE", FULL_SCALE | {"test": 5})
    (found,) = find(source)
    assert published_at_full_scale(found.origin)
    write_config(source / "zeroshot/D3", D3, fc=28e9)
    assert not published_at_full_scale(find(source)[0].origin)


def test_import_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channels.importers.reading, "CHUNK_BYTES", 4 * 8 * 24 * 32 * 8)
    channel = draw(11, *D3.shape)
    write_split(tmp_path / "source/zeroshot/D3", "test", channel)
    store = load(tmp_path / "source", tmp_path / "store")
    assert store.sets["D3"].spec == D3 and store.sets["D3"].role == "zeroshot"
    indices = np.array([10, 0, 3, 4])
    np.testing.assert_array_equal(store.read("D3", "test", indices), channel[indices])
    np.testing.assert_array_equal(store.labels("D3", "test", indices)["speed_kmh"], indices)


def test_matlab_5_files_are_read(tmp_path: Path):
    folder = tmp_path / "zeroshot" / "D3"
    folder.mkdir(parents=True)
    channel = draw(3, *D3.shape)
    savemat(folder / "test_data.mat", {"H_test": channel, "speed_test": np.arange(3.0)[:, None]}, do_compression=True)
    store = load(tmp_path / "zeroshot", tmp_path / "store")
    np.testing.assert_array_equal(whole(store, "D3", "test"), channel)
    assert labels(store, "D3", "test")["speed_kmh"].tolist() == [0, 1, 2]


def test_a_config_of_matlab_7_3_is_read(source: Path):
    file = source / "zeroshot/D3/config.mat"
    file.unlink()
    with h5py.File(file, "w", userblock_size=512) as written:
        for name, value in config_of(D3).items():
            if isinstance(value, str):
                written[name] = np.array([[ord(letter)] for letter in value], np.uint16)
                written[name].attrs["MATLAB_class"] = np.bytes_("char")
            else:
                written[name] = np.atleast_2d(np.asarray(value, float)).T
    assert find(source)[0].parameters["fc_ghz"].source == "config.mat"


def test_one_antenna_whose_axis_matlab_dropped(tmp_path: Path):
    one = replace(TINY, name="one", cols=1)
    channel = draw(3, *one.shape)
    write_split(tmp_path / "one", "train", channel[..., 0])
    write_config(tmp_path / "one", one)
    np.testing.assert_array_equal(whole(load(tmp_path / "one", tmp_path / "store"), "one", "train"), channel)


def test_interrupted_import_goes_on(source: Path, tmp_path: Path):
    load(source, tmp_path / "store")
    write_split(source / "pretrain/P05", "train", draw(2, *P05.shape))
    reports: list[tuple[str, int, int]] = []
    from channels.importers.write import import_source

    import_source(source, tmp_path / "store", ImportOptions(), lambda *report: reports.append(report))
    assert reports == [("P05", 2, 2), ("D3", 5, 5)]
    assert list(ChannelStore.open(tmp_path / "store").sets) == ["D3", "P05"]


def test_what_else_a_file_holds_is_named(source: Path):
    with h5py.File(source / "zeroshot/D3/test_data.mat", "a") as file:
        file["los_test"] = np.arange(5.0)[None]
        file["steering"] = np.ones((7, 9))
    (source / "readme.txt").write_text("hello")
    found = survey(source, ImportOptions())
    assert {one.what for one in found.left_out} == {"zeroshot/D3/test_data.mat: steering", "readme.txt"}


@pytest.mark.parametrize("order", ["n,k,t,a", "a,k,t,n", "n,t,a,k"])
def test_swapped_axes_are_named_with_a_command_that_works(tmp_path: Path, order: str):
    channel = draw(5, *D3.shape)
    names = dict(zip("ntka", range(4), strict=True))
    folder = tmp_path / "zeroshot" / "D3"
    write_split(folder, "test", channel.transpose([names[name] for name in order.split(",")]))
    with h5py.File(folder / "test_data.mat", "a") as file:
        del file["speed_test"]
    with pytest.raises(UserError) as caught:
        find(tmp_path / "zeroshot")
    assert f"--axes {order}" in str(caught.value) and "(24, 32, 8)" in str(caught.value)
    assert f"wavetrain channels import {folder} --store DIR" in str(caught.value)
    store = load(tmp_path / "zeroshot", tmp_path / "store", axes=Axes.parse(order))
    np.testing.assert_array_equal(whole(store, "D3", "test"), channel)


def corrupt(folder: Path) -> None:
    file = folder / "test_data.mat"
    write_split(folder, "test", draw(40, *D3.shape), chunks=(8, 32, 24, 1), compression="gzip")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)


def claim_a_billion(folder: Path) -> None:
    with h5py.File(folder / "test_data.mat", "w") as file:
        file.create_dataset("H_test", (8, 32, 24, 10**9), COMPOUND, chunks=(8, 32, 24, 1))


def rewrite(folder: Path, **variables: object) -> None:
    with h5py.File(folder / "test_data.mat", "w") as file:
        for name, value in variables.items():
            file[name] = value


def cut(folder: Path) -> None:
    file = folder / "test_data.mat"
    file.write_bytes(file.read_bytes()[:5000])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda folder: (folder / "test_data.mat").write_text("hello"), "begins with b'hello'"),
    "cut": (cut, "cut off"),
    "corrupt inside": (corrupt, "cannot be read"),
    "no variable": (lambda folder: rewrite(folder, other=1), "H_test"),
    "real": (lambda folder: rewrite(folder, H_test=np.ones((8, 32, 24, 2), np.float32)), "not complex"),
    "empty": (lambda folder: write_split(folder, "test", np.ones((0, *D3.shape), np.complex64)), "no sample"),
    "other shape": (lambda folder: write_split(folder, "test", draw(2, 24, 32, 4)), "(24, 32, 8)"),
    "zeros": (lambda folder: write_split(folder, "test", np.zeros((2, *D3.shape), np.complex64)), "sample 0"),
    "a billion samples": (claim_a_billion, "sample 0"),
    "config is text": (lambda folder: (folder / "config.mat").write_text("fc = 1"), "config.mat"),
    "config lacks": (lambda folder: savemat(folder / "config.mat", {"fc": 1e9}), "lacks K, delta_f"),
    "config disagrees": (lambda folder: write_config(folder, D3, K=64.0), "config.mat says (24, 64, 8)"),
    "config has NaN": (lambda folder: write_config(folder, D3, fc=np.nan), "fc_ghz"),
    "config has half a slot": (lambda folder: write_config(folder, D3, T=23.5), "slots"),
    "scenario": (lambda folder: write_config(folder, D3, scenario="Freespace"), "Freespace"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_source_is_named_and_leaves_nothing(source: Path, tmp_path: Path, kind: str):
    damage, words = BROKEN[kind]
    damage(source / "zeroshot" / "D3")
    with pytest.raises(UserError) as caught:
        load(source, tmp_path / "store")
    assert words in str(caught.value) and "D3" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_no_source(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere.*no such file or folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no set can be imported.*docs/data\.md"):
        find(tmp_path)


@needs_data
def test_real_set_is_imported_as_it_is(tmp_path: Path):
    source = REAL / "pretrain" / "P05"
    store = load(source, tmp_path / "store")
    stored = store.sets["P05"]
    assert stored.spec in load_preset("hetercsi").pretrain and stored.role == "pretrain"
    assert verify(tmp_path / "store") == []
    for split in ("train", "val"):
        with h5py.File(source / f"{split}_data.mat") as file:
            parts, speed = file[f"H_{split}"][:], file[f"speed_{split}"][0]
        direct = (parts["real"] + 1j * parts["imag"]).transpose(3, 2, 1, 0)
        np.testing.assert_array_equal(whole(store, "P05", split), direct)
        np.testing.assert_allclose(labels(store, "P05", split)["speed_kmh"], speed, rtol=1e-6)


@needs_data
def test_all_real_sets_agree_with_the_preset():
    preset = load_preset("hetercsi")
    found = find(REAL)
    assert len(found) == 30
    assert {item.spec for item in found} <= {*preset.pretrain, *preset.zeroshot}
    assert [item.name for item in found if item.role == "zeroshot"] == [f"D{number}" for number in range(1, 13)]


@needs_data
def test_made_channels_are_as_hard_to_predict_as_the_published_ones():
    """Repeating the last slot: NMSE of the second half on D1, the slowest set, and on D12, a fast one."""
    from channels.make import make_channels

    def repeat_last(channel: np.ndarray) -> float:
        half = channel.shape[1] // 2
        error = np.sum(np.abs(channel[:, half:] - channel[:, half - 1 : half]) ** 2, axis=(1, 2, 3))
        return 10 * np.log10(np.mean(error / np.sum(np.abs(channel[:, half:]) ** 2, axis=(1, 2, 3))))

    for name in ("D1", "D12"):
        (item,) = find(REAL / "zeroshot" / name)
        published = next(item.splits["test"].chunks()).channel
        made = next(make_channels(item.spec, "test", 64, 0)).channel
        assert repeat_last(made) == pytest.approx(repeat_last(published), abs=4)
