"""COST2100 taps: the documented transform, both places, and what is not as published."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from channels.errors import UserError
from channels.importers.formats.cost2100 import to_subcarriers
from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from tests.channels.importers.layouts import load, whole, write_cost2100


def direct(taps: np.ndarray, subcarriers: int) -> np.ndarray:
    """The sum of the module's description, [n, K, 32], term by term."""
    angle, delay = np.arange(32), np.arange(32)
    over_angle = np.exp(-2j * np.pi * np.outer(angle, np.arange(32)) / 32)
    over_delay = np.exp(-2j * np.pi * np.outer(delay, np.arange(subcarriers)) / subcarriers)
    return np.einsum("nmd,ma,dk->nka", taps, over_angle, over_delay) / np.sqrt(32)


@pytest.mark.parametrize("subcarriers", [32, 48, 257])
def test_the_transform_is_the_documented_sum(tmp_path: Path, subcarriers: int):
    taps = write_cost2100(tmp_path / "COST", "in", {"train": 5, "val": 2, "test": 3})
    store = load(tmp_path / "COST", tmp_path / "store", subcarriers=subcarriers)
    for split, values in taps.items():
        found = whole(store, "COST2100-in", split)
        assert found.shape == (len(values), 1, subcarriers, 32)
        np.testing.assert_allclose(found[:, 0], direct(values, subcarriers), rtol=1e-4, atol=1e-4)
    spec = store.sets["COST2100-in"].spec
    assert (spec.fc_ghz, spec.subcarrier_spacing_khz, spec.cols) == (5.3, 20e3 / subcarriers, 32)


def test_it_is_csinets_evaluation_up_to_the_angles():
    """Its first 125 of 257 subcarriers, one angle after another; the angles differ by a unitary transform."""
    taps = np.random.default_rng(0).uniform(0, 1, (4, 2, 32, 32))
    theirs = np.fft.fft(np.concatenate([(taps[:, 0] - 0.5) + 1j * (taps[:, 1] - 0.5), np.zeros((4, 32, 225))], axis=2))
    ours = to_subcarriers(257, "test")(taps)[:, 0, :125].swapaxes(1, 2)
    np.testing.assert_allclose(np.fft.ifft(ours, axis=1, norm="ortho"), theirs[:, :, :125], rtol=1e-4, atol=1e-4)


def test_both_places_and_what_is_left_out(tmp_path: Path):
    for place in ("in", "out"):
        write_cost2100(tmp_path, place, {"train": 3, "val": 2, "test": 1})
        savemat(tmp_path / f"DATA_HtestF{place}_all.mat", {"HF_all": np.ones((1, 32 * 125), complex)})
    found = survey(tmp_path, ImportOptions())
    counts = {"train": 3, "val": 2, "test": 1}
    assert [(one.name, one.counts) for one in found.sets] == [("COST2100-in", counts), ("COST2100-out", counts)]
    assert [one.spec.fc_ghz for one in found.sets] == [5.3, 0.3]
    assert [left.what for left in found.left_out] == ["DATA_HtestFin_all.mat", "DATA_HtestFout_all.mat"]
    (alone,) = survey(tmp_path / "DATA_Htestin.mat", ImportOptions()).sets
    assert (alone.role, alone.counts) == ("zeroshot", {"test": 1})


def test_another_name_and_another_file_format(tmp_path: Path):
    taps = np.random.default_rng(0).uniform(0, 1, (3, 2, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "indoor_test.npz", HT=taps.reshape(3, -1))
    np.save(tmp_path / "taps.npy", taps)
    found = survey(tmp_path / "indoor_test.npz", ImportOptions()).sets
    assert [(one.name, one.reader, one.counts) for one in found] == [("indoor", "cost2100", {"test": 3})]
    (found,) = survey(tmp_path / "taps.npy", ImportOptions(format="cost2100")).sets
    assert (found.name, found.counts, found.origin["assumed"]) == (
        "taps",
        {"train": 3},
        ["cols", "fc_ghz", "los", "rows", "scenario", "slot_ms", "speed_kmh"],
    )


def test_what_is_not_as_published(tmp_path: Path):
    savemat(tmp_path / "DATA_Htrainin.mat", {"HT": np.ones((3, 2000))})
    with pytest.raises(UserError, match=r"DATA_Htrainin\.mat: no array HT.*\(N, 2048\).*HT float64 \(3, 2000\)"):
        survey(tmp_path, ImportOptions())
    savemat(tmp_path / "DATA_Htrainin.mat", {"HT": np.full((3, 2048), 1.5)})
    with pytest.raises(UserError, match=r"values from 1\.5 to 1\.5, but HT lies in \[0, 1\]"):
        load(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(UserError, match="31 subcarriers cannot hold 32 delays"):
        survey(tmp_path, ImportOptions(subcarriers=31))
    with pytest.raises(UserError, match=r"p\.yaml: \(T, K, A\) = \(4, 32, 32\) is asked for"):
        survey(tmp_path, ImportOptions(given=GivenParameters("p.yaml", {"slots": 4})))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named_or_left_out(tmp_path: Path, value: float):
    taps = np.random.default_rng(0).uniform(0, 1, (3, 2048))
    taps[1, 7] = value
    np.savez(tmp_path / "DATA_Htrainin.npz", HT=taps)
    with pytest.raises(UserError, match="COST2100-in/train: sample 1 has mean power nan"):
        load(tmp_path, tmp_path / "store")
    store = load(tmp_path, tmp_path / "store", skip_zero=True)
    assert store.sets["COST2100-in"].origin["skipped_zero"] == {"train": 1}


def test_samples_that_become_large_are_made_one_by_one_or_refused(tmp_path: Path):
    np.savez(tmp_path / "DATA_Htrainin.npz", HT=np.random.default_rng(0).uniform(0, 1, (3, 2048)))
    with pytest.raises(UserError, match="--subcarriers: a sample of 100000000 subcarriers is larger than"):
        survey(tmp_path, ImportOptions(subcarriers=10**8))
    (found,) = survey(tmp_path, ImportOptions(subcarriers=2**15)).sets
    assert [len(chunk.channel) for chunk in found.splits["train"].chunks()] == [1, 1, 1]
