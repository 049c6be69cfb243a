"""WiFo's sets: both versions of MATLAB's files, complex or in parts, known and unknown parameters."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.formats.wifo import known_set
from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from tests.channels.importers.layouts import P01, SHARED, draw, labels, load, whole, write_wifo

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared channel data are not beside the repository")


@pytest.mark.parametrize("old", [False, True])
def test_a_known_set(tmp_path: Path, old: bool):
    channel = draw(3, *P01.shape)
    write_wifo(tmp_path / "D1", channel, old=old)
    for source in (tmp_path, tmp_path / "D1", tmp_path / "D1" / "X_test.mat"):
        (found,) = survey(source, ImportOptions()).sets
        assert (found.name, found.role, found.counts) == ("wifo-D1", "zeroshot", {"test": 3})
        assert found.parameters["fc_ghz"].source == "published (WiFo D1)"
    store = load(tmp_path, tmp_path / "store")
    assert store.sets["wifo-D1"].spec.fc_ghz == P01.fc_ghz and store.sets["wifo-D1"].spec.speed_kmh == P01.speed_kmh
    np.testing.assert_array_equal(whole(store, "wifo-D1", "test"), channel)


def test_the_sixteenth_is_without_line_of_sight():
    assert known_set("D15") and known_set("D15").los is True
    assert known_set("D16") and known_set("D16").los is False
    assert known_set("D17") is None and known_set("hall") is None


@pytest.mark.parametrize("old", [False, True])
def test_an_unknown_set_says_what_is_assumed(tmp_path: Path, old: bool):
    channel = draw(3, 4, 8, 6)
    write_wifo(tmp_path / "D18", channel, old=old)
    (found,) = survey(tmp_path, ImportOptions()).sets
    assert (found.name, found.shape) == ("D18", (4, 8, 6))
    assert "fc_ghz" in found.origin["assumed"]
    given = GivenParameters("p.yaml", {}, {"D18": {"fc_ghz": 28.0, "rows": 2}})
    store = load(tmp_path, tmp_path / "store", given=given)
    assert (store.sets["D18"].spec.fc_ghz, store.sets["D18"].spec.cols) == (28.0, 3)
    np.testing.assert_array_equal(whole(store, "D18", "test"), channel)


def test_a_set_of_a_known_name_and_another_scale(tmp_path: Path):
    write_wifo(tmp_path / "D1", draw(3, 24, 32, 8))
    (found,) = survey(tmp_path, ImportOptions()).sets
    assert "not WiFo's D1, whose (T, K, A) is (24, 128, 4)" in found.notes[0]


def test_subcarriers_before_antennas_are_named_with_a_command(tmp_path: Path):
    channel = draw(3, *P01.shape)
    write_wifo(tmp_path / "D1", channel.swapaxes(2, 3))
    with pytest.raises(UserError, match=r"\(24, 128, 4\).*--axes n,t,k,a"):
        survey(tmp_path, ImportOptions())
    store = load(tmp_path, tmp_path / "store", axes=Axes.parse("n,t,k,a"))
    np.testing.assert_array_equal(whole(store, "wifo-D1", "test"), channel)


@pytest.mark.parametrize("where", [1, 4])
def test_real_and_imaginary_parts(tmp_path: Path, where: int):
    channel = draw(3, 4, 8, 6)
    folder = tmp_path / "D20"
    folder.mkdir()
    parts = np.stack([channel.swapaxes(2, 3).real, channel.swapaxes(2, 3).imag], axis=where)
    with h5py.File(folder / "X_test.mat", "w") as file:
        file["X_val"] = parts.T
    np.testing.assert_array_equal(whole(load(folder, tmp_path / "store"), "D20", "test"), channel)


def test_two_variables_of_parts_and_labels(tmp_path: Path):
    channel = draw(3, 4, 8, 6)
    folder = tmp_path / "D20"
    folder.mkdir()
    with h5py.File(folder / "X_test.mat", "w") as file:
        file["X_val_real"], file["X_val_imag"] = channel.swapaxes(2, 3).real.T, channel.swapaxes(2, 3).imag.T
        file["speed"], file["codebook"] = np.arange(3.0)[None], np.ones((5, 7))
    found = survey(folder, ImportOptions())
    assert [left.what for left in found.left_out] == ["X_test.mat: codebook"]
    store = load(folder, tmp_path / "store")
    np.testing.assert_array_equal(whole(store, "D20", "test"), channel)
    assert labels(store, "D20", "test")["speed"].tolist() == [0, 1, 2]


def test_without_the_variable(tmp_path: Path):
    write_wifo(tmp_path / "D1", draw(3, 4, 8, 6))
    with pytest.raises(UserError, match=r"no variable X.*it holds X_val complex64 \(3, 4, 6, 8\).*--key"):
        survey(tmp_path, ImportOptions(key="X"))


@needs_data
@pytest.mark.parametrize("folder", ["wifo", "wifo_v5"])
def test_the_shared_examples(tmp_path: Path, folder: str):
    found = survey(SHARED / "layouts" / folder, ImportOptions())
    assert [one.shape for one in found.sets] == [(24, 32, 8)] and found.left_out == ()
    store = load(SHARED / "layouts" / folder, tmp_path / "store")
    (name,) = store.sets
    whole_set = whole(store, name, "test")
    other = load(SHARED / "layouts/hetercsi_published/zeroshot", tmp_path / "published")
    np.testing.assert_allclose(whole_set, whole(other, "D3", "test")[: len(whole_set)])
