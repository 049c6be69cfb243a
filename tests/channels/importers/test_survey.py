"""Looking into a source: what is named, what is not looked into, the file of parameters, old stores."""

import json
from pathlib import Path

import numpy as np
import pytest

from channels.errors import UserError
from channels.importers.options import ImportOptions
from channels.importers.pairs import split_in
from channels.importers.spec_file import read_spec_file
from channels.importers.survey import FORMATS, survey
from channels.importers.tree import DEPTH, look_into
from channels.manifest import read_manifest
from channels.store import ChannelStore
from channels.writer import open_writer
from tests.channels.importers.layouts import D3, draw, load, write_config, write_split


def left_out(source: Path, **options: object) -> dict[str, str]:
    return {one.what: one.why for one in survey(source, ImportOptions(**options)).left_out}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of one array."""
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "lab.npy", draw(3, 4, 8, 2))
    return folder


def test_everything_that_is_not_imported_is_named(source: Path, tmp_path: Path):
    load(source, source / "store")
    (source / ".cache").mkdir()
    (source / "notes.txt").write_text("hello")
    (source / "dangling").symlink_to(tmp_path / "nowhere")
    (source / "again").symlink_to(source)
    (source / "D5").mkdir()
    deep = source.joinpath(*["x"] * (DEPTH + 1))
    deep.mkdir(parents=True)
    found = left_out(source)
    assert found.keys() == {"store", "source/", "D5", "notes.txt", "dangling", "/".join("x" * DEPTH)}
    assert "imported already" in found["store"] and ".cache" in found["source/"]
    assert found["D5"] == "an empty folder"
    assert "deeper than" in found["/".join("x" * DEPTH)]


def test_a_chosen_format_names_what_it_does_not_look_at(source: Path):
    folder = source / "zeroshot" / "D3"
    write_split(folder, "test", draw(2, *D3.shape))
    write_config(folder, D3)
    assert [one.reader for one in survey(source, ImportOptions()).sets] == ["hetercsi", "arrays"]
    assert left_out(source, format="hetercsi") == {"lab.npy": "not looked at: only --format hetercsi"}
    with pytest.raises(UserError, match=r"unknown format 'hetero'.*hetercsi, wifo"):
        survey(source, ImportOptions(format="hetero"))
    for name in set(FORMATS) - {"hetercsi", "arrays"}:
        with pytest.raises(UserError):
            survey(source / "zeroshot", ImportOptions(format=name))


def test_files_come_in_natural_order(tmp_path: Path):
    for name in ("D10", "D2", "D1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    assert [file.parent.name for file in look_into(tmp_path)[0].files] == ["D1", "D2", "D10"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H_train", ("train", "H")),
        ("test_data", ("test", "data")),
        ("val", ("val", "")),
        ("site-validation-2", ("val", "site_2")),
        ("Testing", ("test", "")),
        ("latest", (None, "latest")),
        ("train_test", (None, "train_test")),
        ("lab", (None, "lab")),
    ],
)
def test_splits_in_names(name: str, expected: tuple[str | None, str]):
    assert split_in(name) == expected


GOOD = """
fc_ghz: 3.5
speed_kmh: [0, 3]
los: null
sets:
  lab: {scenario: Factory, rows: 2}
"""


def test_parameters_in_a_file(source: Path, tmp_path: Path):
    file = tmp_path / "lab.yaml"
    file.write_text(GOOD)
    store = load(source, tmp_path / "store", given=read_spec_file(file))
    spec = store.sets["lab"].spec
    assert (spec.fc_ghz, spec.scenario, spec.rows, spec.cols, spec.speed_kmh) == (3.5, "Factory", 2, 1, (0, 3))
    assert store.sets["lab"].origin["assumed"] == ["slot_ms", "subcarrier_spacing_khz"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fc: 3.5", r"unknown field 'fc'.*did you mean 'fc_ghz'"),
        ("fc_ghz: 3.5\nfc_ghz: 2.6", "stands twice"),
        ("sets: {lab: {rows: 1, rows: 2}}", "stands twice"),
        ("sets: [lab]", "must map names"),
        ("sets: {lab: {speed: 3}}", r"sets\.lab: unknown field 'speed'"),
        ("sets: {hall: {rows: 1}}", "'hall', which is not here"),
        ("fc_ghz: fast", r"source.*fc_ghz"),
        ("fc_ghz: .nan", r"line 1: \.nan"),
        ("rows: 3", r"\(4, 8, 2\), but --spec .* says \(4, 8, 3\)"),
        ("[1]", "not a mapping"),
        ("a: [", "not YAML at line 1"),
        ("a: 2001-99-99", "not YAML"),
    ],
)
def test_a_bad_file_of_parameters_is_one_line(source: Path, tmp_path: Path, text: str, words: str):
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        survey(source, ImportOptions(given=read_spec_file(file)))
    assert "\n" not in str(caught.value)


def test_names_by_the_user(source: Path, tmp_path: Path):
    assert list(load(source, tmp_path / "one", name="hall").sets) == ["hall"]
    np.save(source / "roof.npy", draw(3, 4, 8, 2))
    assert list(load(source, tmp_path / "two", name="x").sets) == ["x-lab", "x-roof"]
    with pytest.raises(UserError, match="cannot be a folder"):
        load(source / "lab.npy", tmp_path / "three", name="a/b")


def test_a_changed_source_is_another_set(source: Path, tmp_path: Path):
    load(source, tmp_path / "store")
    assert list(load(source, tmp_path / "store").sets) == ["lab"]
    np.save(source / "lab.npy", draw(3, 4, 8, 2, seed=1))
    assert list(load(source, tmp_path / "store").sets) == ["lab", "lab-npy"]


def test_a_conflict_is_found_before_anything_is_written(source: Path, tmp_path: Path):
    np.save(source / "roof.npy", draw(3, 4, 8, 2))
    load(source / "roof.npy", tmp_path / "store")
    with pytest.raises(UserError, match=r"roof.*role is pretrain, not zeroshot"):
        load(source, tmp_path / "store", role="zeroshot")
    assert list(ChannelStore.open(tmp_path / "store").sets) == ["roof"]


def test_stores_made_before_still_open_and_take_more(source: Path, tmp_path: Path):
    """An origin of one entry is what imports wrote at first."""
    from channels.shards import Samples

    store = tmp_path / "store"
    samples = Samples(draw(2, *D3.shape), {"speed_kmh": np.zeros(2, np.float32)})
    with open_writer(store) as writer:
        writer.add_set(D3, "zeroshot", {"test": 2}, {"test": [samples]}, {"format": "hetercsi"})
    assert read_manifest(store)["D3"].origin == {"format": "hetercsi"}
    assert list(load(source, store).sets) == ["D3", "lab"]
    assert json.loads((store / "manifest.json").read_text())["schema"] == 1
