"""Plain arrays: every file format, labels, splits by name, parts, and what is not channels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from tests.channels.importers.layouts import SHARED, TINY, compound, draw, labels, load, whole, write_config

CHANNEL = draw(5, 4, 8, 3)
LABELS = np.arange(5)
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared channel data are not beside the repository")


def hdf5(path: Path, **variables: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, value in variables.items():
            file[name.replace("__", "/")] = value


def torch_file(path: Path, value: Any, **how: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.save(value, path, **how)


def tensor(values: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(np.ascontiguousarray(values))


FILES: dict[str, Callable[[Path], object]] = {
    "c64.npy": lambda path: np.save(path, CHANNEL),
    "c128.npy": lambda path: np.save(path, CHANNEL.astype(complex)),
    "big_endian.npy": lambda path: np.save(path, CHANNEL.astype(">c8")),
    "fortran.npy": lambda path: np.save(path, np.asfortranarray(CHANNEL)),
    "last_parts.npy": lambda path: np.save(path, np.stack([CHANNEL.real, CHANNEL.imag], -1)),
    "first_parts.npy": lambda path: np.save(path, np.stack([CHANNEL.real, CHANNEL.imag], 1)),
    "stored.npz": lambda path: np.savez(path, H=CHANNEL, labels=LABELS),
    "packed.npz": lambda path: np.savez_compressed(path, H=np.asfortranarray(CHANNEL), labels=LABELS),
    "pair.npz": lambda path: np.savez(path, H_re=CHANNEL.real, H_im=CHANNEL.imag, labels=LABELS),
    "any_name.npz": lambda path: np.savez(path, measured=CHANNEL, labels=LABELS),
    "complex64.h5": lambda path: hdf5(path, H=CHANNEL, labels=LABELS),
    "complex128.hdf5": lambda path: hdf5(path, group__H=CHANNEL.astype(complex), group__labels=LABELS),
    "compound.h5": lambda path: hdf5(path, H=compound(CHANNEL.T), labels=LABELS),
    "pair.h5": lambda path: hdf5(path, real=CHANNEL.real, imag=CHANNEL.imag, labels=LABELS),
    "parts.h5": lambda path: hdf5(path, csi=np.stack([CHANNEL.real, CHANNEL.imag], -1), labels=LABELS),
    "v5.mat": lambda path: savemat(path, {"H": CHANNEL, "labels": LABELS[None]}, do_compression=True),
    "v5_plain.mat": lambda path: savemat(path, {"H": CHANNEL, "labels": LABELS[:, None]}),
    "v5_pair.mat": lambda path: savemat(path, {"Hr": CHANNEL.real, "Hi": CHANNEL.imag, "labels": LABELS}),
    "v73.mat": lambda path: hdf5(path, H=compound(CHANNEL), labels=LABELS[None]),
    "dict.pt": lambda path: torch_file(path, {"H": tensor(CHANNEL), "labels": tensor(LABELS)}),
    "bare.pt": lambda path: torch_file(path, tensor(CHANNEL)),
    "list.pth": lambda path: torch_file(path, [tensor(row) for row in CHANNEL]),
    "tuple.pt": lambda path: torch_file(path, (tensor(CHANNEL), LABELS.tolist())),
    "legacy.pt": lambda path: torch_file(path, {"H": tensor(CHANNEL)}, _use_new_zipfile_serialization=False),
    "nested.pt": lambda path: torch_file(path, {"data": {"H": tensor(CHANNEL), "labels": LABELS.tolist()}}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_samples(tmp_path: Path, name: str):
    FILES[name](tmp_path / name)
    found = survey(tmp_path / name, ImportOptions())
    assert found.left_out == ()
    store = load(tmp_path / name, tmp_path / "store")
    (stored,) = store.sets.values()
    assert (stored.spec.name, stored.role) == (name.partition(".")[0], "pretrain")
    np.testing.assert_array_equal(whole(store, stored.spec.name, "train"), CHANNEL)
    kept = labels(store, stored.spec.name, "train")
    if kept:
        assert [values.tolist() for values in kept.values()] == [LABELS.tolist()]
    assert bool(kept) == ("npy" not in name and name not in ("bare.pt", "list.pth", "legacy.pt"))


def test_all_kinds_of_labels_are_kept(tmp_path: Path):
    kept = {
        "los": np.array([1, 0, 1, 0, 1], np.int8),
        "flag": np.array([True, False, True, False, True]),
        "pos": np.arange(15, dtype=np.float32).reshape(5, 3),
        "tx_pos": np.array([1.0, 2, 3], np.float32),
        "labels": draw(5, 8, 3, seed=3),
        "gain": np.arange(5, dtype=">f8"),
    }
    np.savez(tmp_path / "lab.npz", H=CHANNEL, codebook=np.ones((7, 9)), note=np.array("hi"), **kept)
    found = survey(tmp_path / "lab.npz", ImportOptions())
    assert {left.what for left in found.left_out} == {"lab.npz: codebook", "lab.npz: note"}
    store = load(tmp_path / "lab.npz", tmp_path / "store")
    held = labels(store, "lab", "train")
    assert held.keys() == kept.keys()
    for name in ("los", "flag", "pos", "gain"):
        np.testing.assert_array_equal(held[name], kept[name])
    assert held["flag"].dtype == bool and held["los"].dtype == np.int8
    np.testing.assert_array_equal(held["tx_pos"], np.tile(kept["tx_pos"], (5, 1)))
    np.testing.assert_array_equal(held["labels"][..., 0] + 1j * held["labels"][..., 1], kept["labels"])


def test_splits_in_the_names_of_files_variables_and_folders(tmp_path: Path):
    counts = {"train": 5, "val": 3, "test": 2}
    for split, count in counts.items():
        channel, marks = CHANNEL[:count], LABELS[:count]
        for folder in ("npy", "folders", "task_1"):
            (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / "npy" / f"H_{split}.npy", channel)
        np.save(tmp_path / "npy" / f"labels_{split}.npy", marks)
        np.savez(tmp_path / f"site_{split}.npz", H=channel, labels=marks)
        torch_file(tmp_path / "task_1" / f"{split}_data.pt", {"channels": tensor(channel), "labels": tensor(marks)})
        (tmp_path / "folders" / split).mkdir()
        np.savez(tmp_path / "folders" / split / "hall.npz", H=channel, labels=marks)
    arrays = {f"H_{split}": CHANNEL[:count] for split, count in counts.items()}
    np.savez(tmp_path / "keys.npz", **arrays, **{f"labels_{split}": LABELS[:count] for split, count in counts.items()})
    found = survey(tmp_path, ImportOptions())
    assert found.left_out == ()
    assert {one.name: one.counts for one in found.sets} == dict.fromkeys(
        ("npy", "site", "task_1", "hall", "keys"), counts
    )
    store = load(tmp_path, tmp_path / "store")
    for name in store.sets:
        for split, count in counts.items():
            np.testing.assert_array_equal(whole(store, name, split), CHANNEL[:count])
            assert labels(store, name, split)["labels"].tolist() == LABELS[:count].tolist()


def test_names_of_sets(tmp_path: Path):
    for path in ("a/H.npy", "b/data.npy", "b c/lab é.npy", "D1.npy", "lab.npy"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        np.save(tmp_path / path, CHANNEL)
    np.savez(tmp_path / "lab.npz", H=CHANNEL)
    np.savez(tmp_path / "two.npz", H_ul=CHANNEL, H_dl=CHANNEL)
    store = load(tmp_path, tmp_path / "store")
    assert sorted(store.sets) == ["D1-npy", "a", "b", "lab", "lab-npy", "lab_-npy", "two-H_dl", "two-H_ul"]
    assert list(load(tmp_path, tmp_path / "store").sets) == list(store.sets)


def test_two_files_of_one_name_are_two_sets(tmp_path: Path):
    for place, seed in (("a", 1), ("b", 2)):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "lab.npy", draw(5, 4, 8, 3, seed=seed))
    store = load(tmp_path / "a" / "lab.npy", tmp_path / "store")
    store = load(tmp_path / "b" / "lab.npy", tmp_path / "store")
    assert list(store.sets) == ["lab", "lab-npy"]
    np.testing.assert_array_equal(whole(store, "lab-npy", "train"), draw(5, 4, 8, 3, seed=2))


def test_roles_and_validation(tmp_path: Path):
    (tmp_path / "zeroshot").mkdir()
    np.save(tmp_path / "zeroshot" / "lab.npy", CHANNEL)
    (found,) = survey(tmp_path, ImportOptions()).sets
    assert (found.role, found.counts) == ("zeroshot", {"test": 5})
    store = load(tmp_path, tmp_path / "store", role="pretrain", val_share=0.4)
    assert {name: split.count for name, split in store.sets["lab"].splits.items()} == {"train": 3, "val": 2}
    np.testing.assert_array_equal(whole(store, "lab", "val"), CHANNEL[3:])


def test_validation_is_one_end_of_the_scene_where_positions_are_known(tmp_path: Path):
    pos = np.array([[0, 50, 0], [1, 10, 0], [2, 40, 0], [3, 20, 0], [4, 30, 0]], np.float32)
    np.savez(tmp_path / "lab.npz", H=CHANNEL, pos=pos)
    store = load(tmp_path, tmp_path / "store", val_share=0.4)
    np.testing.assert_array_equal(whole(store, "lab", "val"), CHANNEL[[0, 2]])
    np.testing.assert_array_equal(whole(store, "lab", "train"), CHANNEL[[1, 3, 4]])
    np.testing.assert_array_equal(labels(store, "lab", "train")["pos"], pos[[1, 3, 4]])


def test_parameters_of_the_file_and_of_the_user(tmp_path: Path):
    values = {"fc": 3.5e9, "delta_f": 30e3, "delta_t": 5e-4, "UPA": [3.0, 1.0]}
    savemat(tmp_path / "lab.mat", {"H": CHANNEL, **values})
    (found,) = survey(tmp_path, ImportOptions()).sets
    spec = found.spec
    assert (spec.fc_ghz, spec.subcarrier_spacing_khz, spec.slot_ms, spec.rows) == (3.5, 30, 0.5, 3)
    assert found.parameters["fc_ghz"].source == "lab.mat" and "fc_ghz" not in found.origin["assumed"]
    (found,) = survey(tmp_path, ImportOptions(given=GivenParameters("p.yaml", {"fc_ghz": 2.6}))).sets
    assert (found.spec.fc_ghz, found.parameters["fc_ghz"].source) == (2.6, "--spec p.yaml")
    with pytest.raises(
        UserError, match=r"\(4, 8, 3\), but --spec p\.yaml and lab\.mat says \(8, 4, 3\); n,k,t,a would fit: try"
    ):
        survey(tmp_path / "lab.mat", ImportOptions(given=GivenParameters("p.yaml", {"slots": 8, "subcarriers": 4})))


def test_a_configuration_beside_an_array_is_heeded(tmp_path: Path):
    spec = ChannelSpec.from_mapping(TINY.to_mapping() | {"cols": 3}, "test")
    write_config(tmp_path / "hall", spec)
    hdf5(tmp_path / "hall" / "H.mat", H_train=compound(CHANNEL), H_val=compound(CHANNEL[:2]))
    found = survey(tmp_path, ImportOptions())
    (one,) = found.sets
    assert (one.name, one.counts, one.spec.fc_ghz) == ("hall", {"train": 5, "val": 2}, TINY.fc_ghz)
    assert one.parameters["scenario"].source == "config.mat" and found.left_out == ()
    (tmp_path / "hall" / "config.mat").write_text("fc = 1")
    assert [left.what for left in survey(tmp_path, ImportOptions()).left_out] == ["hall/config.mat"]


def test_swapped_axes_by_option(tmp_path: Path):
    np.save(tmp_path / "lab.npy", CHANNEL.transpose(3, 1, 2, 0))
    store = load(tmp_path / "lab.npy", tmp_path / "store", axes=Axes.parse("a,t,k,n"))
    np.testing.assert_array_equal(whole(store, "lab", "train"), CHANNEL)
    assert store.sets["lab"].origin["axes"] == "a,t,k,n"
    with pytest.raises(UserError, match="origin"):
        load(tmp_path / "lab.npy", tmp_path / "store", axes=Axes.parse("a,t,k,n"), name="lab", val_share=0.3)


def test_splits_of_two_scales_are_refused(tmp_path: Path):
    np.savez(tmp_path / "lab.npz", H_train=CHANNEL, H_test=draw(2, 4, 8, 5))
    with pytest.raises(UserError, match=r"lab\.npz.*\(2, 4, 8, 5\).*\(4, 8, 5\), but .* \(4, 8, 3\)"):
        survey(tmp_path, ImportOptions())


def test_what_single_precision_cannot_hold_is_named_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    np.save(tmp_path / "lab.npy", 1e200 * CHANNEL.astype(complex))
    with pytest.raises(UserError, match="sample 0 has mean power inf"):
        load(tmp_path, tmp_path / "store")
    assert not recwarn.list


def test_key_chooses_among_variables(tmp_path: Path):
    np.savez(tmp_path / "lab.npz", H=CHANNEL, estimate=2 * CHANNEL)
    assert survey(tmp_path, ImportOptions()).sets[0].origin["key"] == "H"
    store = load(tmp_path / "lab.npz", tmp_path / "store", key="estimate")
    np.testing.assert_array_equal(whole(store, "lab", "train"), 2 * CHANNEL)
    with pytest.raises(UserError, match=r"no variable G: it holds H complex64 \(5, 4, 8, 3\), estimate"):
        survey(tmp_path / "lab.npz", ImportOptions(key="G"))


@pytest.mark.parametrize("weak", [0, 1e-40])
def test_zero_samples_are_named_or_left_out_and_counted(tmp_path: Path, weak: float):
    channel = CHANNEL.copy()
    channel[1], channel[4] = weak, np.nan
    np.savez(tmp_path / "lab.npz", H=channel, labels=LABELS)
    with pytest.raises(UserError, match=r"lab/train: sample 1 .*--skip-zero"):
        load(tmp_path / "lab.npz", tmp_path / "store")
    assert not (tmp_path / "store").exists()
    store = load(tmp_path / "lab.npz", tmp_path / "store", skip_zero=True)
    assert labels(store, "lab", "train")["labels"].tolist() == [0, 2, 3]
    assert store.sets["lab"].origin["skipped_zero"] == {"train": 2}
    assert load(tmp_path / "lab.npz", tmp_path / "store", skip_zero=True).fingerprint == store.fingerprint


NOT_CHANNELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "five.npy": (lambda path: np.save(path, draw(5, 1, 2, 8, 3)), r"cannot be guessed.*--axes n,1,a,k,t"),
    "real.npy": (lambda path: np.save(path, CHANNEL.real[:, :, :3, :1]), "no array of channels"),
    "vector.npz": (lambda path: np.savez(path, H=CHANNEL[:, 0, 0, 0]), "no array of channels: it holds H complex64"),
    "objects.npy": (lambda path: np.save(path, np.array([1, "a"], object)), "never unpickled"),
    "objects.npz": (lambda path: np.savez(path, H=np.array([1, "a"], object)), "never unpickled"),
    "text.npz": (lambda path: np.savez(path, a=np.array("x")), "no array of channels"),
    "lfs.npy": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "page.mat": (lambda path: path.write_text("<!DOCTYPE html>"), "a web page"),
    "empty.h5": (lambda path: path.write_bytes(b""), "an empty file"),
    "old.mat": (lambda path: savemat(path, {"H": np.ones((2, 3))}, format="4"), "MATLAB 4 file"),
    "cut.npy": (lambda path: path.write_bytes(_cut(path, CHANNEL)), "cut off"),
    "pickle.pkl": (lambda path: path.write_bytes(b"\x80\x04K\x01."), "a Python pickle, which is never read"),
    "other.npy": (lambda path: path.write_text("hello"), "begins with b'hello'"),
    "struct.mat": (lambda path: savemat(path, {"s": {"H": CHANNEL}}), "s: a struct"),
}


def _cut(path: Path, values: np.ndarray) -> bytes:
    np.save(path, values)
    return path.read_bytes()[:-8]


@pytest.mark.parametrize("name", NOT_CHANNELS)
def test_what_is_not_channels_is_said_and_alone_refused(tmp_path: Path, name: str):
    write, words = NOT_CHANNELS[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path / name, tmp_path / "store")
    assert name in str(caught.value) and "\n" not in str(caught.value)
    np.savez(tmp_path / "good.npz", H=CHANNEL)
    found = survey(tmp_path, ImportOptions())
    assert [one.name for one in found.sets] == ["good"]
    assert [left.what.partition(":")[0] for left in found.left_out] == [name]


def test_a_torch_file_of_objects_is_never_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    torch_file(tmp_path / "trap.pt", {"channels": tensor(CHANNEL), "trap": Trap()})
    with pytest.raises(UserError, match=r"more than tensors \(Unsupported .*torch\.save"):
        load(tmp_path / "trap.pt", tmp_path / "store")
    assert not (tmp_path / "touched").exists()


def test_ray_traced_users_with_their_manifest(tmp_path: Path):
    parts = np.stack([CHANNEL[:, 0].real, CHANNEL[:, 0].imag], -1).astype(np.float16)
    held = {"los": np.ones(5, np.int8), "pos": np.zeros((5, 3), np.float32), "tx_pos": np.ones(3, np.float32)}
    np.savez(tmp_path / "square.npz", H=parts, **held)
    scene = {
        "scene": "plaza",
        "fc": [3.5e9, 28e9],
        "axes": "user, tx antenna (1x8 ULA), subcarrier (480 kHz spacing), re/im",
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"square": scene}))
    found = survey(tmp_path, ImportOptions())
    (one,) = found.sets
    assert found.left_out == ()
    assert (one.spec.fc_ghz, one.spec.subcarrier_spacing_khz, one.spec.scenario) == (3.5, 480, "plaza")
    assert one.parameters["fc_ghz"].source == "manifest.json" and one.shape == (1, 3, 8)
    store = load(tmp_path, tmp_path / "store")
    assert labels(store, "square", "train").keys() == held.keys()
    stored = whole(store, "square", "train")[:, 0]
    np.testing.assert_allclose(stored, CHANNEL[:, 0].swapaxes(1, 2), rtol=2e-3, atol=1e-4)
    (tmp_path / "manifest.json").write_text("[]")
    assert [left.what for left in survey(tmp_path, ImportOptions()).left_out] == ["store", "manifest.json"]


@needs_data
def test_the_shared_examples(tmp_path: Path):
    source = SHARED / "layouts"
    found = survey(source, ImportOptions())
    assert len(found.sets) == 10 and found.left_out == ()
    store = load(source / "arrays", tmp_path / "arrays")
    np.testing.assert_array_equal(whole(store, "lab-npy", "train"), np.load(source / "arrays/lab.npy"))
    npz = np.load(source / "arrays/lab.npz")["channels"]
    np.testing.assert_array_equal(whole(store, "lab", "train")[:, 0], npz[:, 0].swapaxes(1, 2))
    store = load(source / "lwm_task.pt", tmp_path / "lwm")
    assert labels(store, "lwm_task", "train")["labels"].tolist() == [0, 1, 0]


@needs_data
def test_the_shared_ray_traced_users(tmp_path: Path):
    found = survey(SHARED / "ray_traced", ImportOptions())
    assert {one.name: one.counts for one in found.sets} == {"canyon": {"train": 1497}, "munich": {"train": 861}}
    assert found.left_out == ()
    store: ChannelStore = load(SHARED / "ray_traced" / "munich.npz", tmp_path / "store")
    held = np.load(SHARED / "ray_traced" / "munich.npz")
    kept = labels(store, "munich", "train")
    assert kept.keys() == set(held.files) - {"H"}
    np.testing.assert_array_equal(kept["beam64_28GHz"], held["beam64_28GHz"])
    values = held["H"].astype(np.float32)
    np.testing.assert_array_equal(
        whole(store, "munich", "train")[:, 0], (values[..., 0] + 1j * values[..., 1]).swapaxes(1, 2)
    )
