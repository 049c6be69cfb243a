import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from channels.errors import UserError
from jobs.cli.channels import app
from tests.channels.importers.layouts import draw

SMALL = ["--sets", "1", "--train", "5", "--val", "2", "--test", "3"]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made") / "store"
    run("make", "--preset", "demo", "--store", store, *SMALL)
    return store


def test_make_show_verify(made: Path):
    report = json.loads(run("show", made, "--json"))
    assert [row["name"] for row in report["sets"]] == ["E1", "Z1", "Z2", "Z3", "Z4"]
    first, second = report["sets"][:2]
    assert (first["role"], first["counts"], first["tokens"]) == ("pretrain", {"train": 5, "val": 2}, 8)
    assert (second["role"], second["counts"], second["shape"]) == ("zeroshot", {"test": 3}, [16, 16, 4])
    assert 0 < first["mean_power"] < 1e-3 and first["origin"]["seed"] == 0
    table = run("show", made)
    for word in (
        "E1",
        "8x16x4",
        "UMi LoS",
        "5 train + 2 val",
        "pretrain",
        "5 sets, 19 samples",
        report["fingerprint"][:16],
    ):
        assert word in table
    assert json.loads(run("verify", made, "--json")) == {"path": str(made), "whole": True, "faults": []}


def test_make_again_changes_nothing_and_can_add_sets(made: Path):
    before = run("show", made, "--json")
    run("make", "--preset", "demo", "--store", made, *SMALL)
    assert run("show", made, "--json") == before
    with pytest.raises(UserError, match=r"E1.*origin"):
        run("make", "--preset", "demo", "--store", made, *SMALL, "--seed", "1")
    assert run("show", made, "--json") == before


def test_sets_by_name_and_zero_counts(tmp_path: Path):
    names = ["--sets", "E2,Z3", "--train", "2", "--val", "0", "--test", "0"]
    run("make", "--preset", "demo", "--store", tmp_path / "store", *names)
    rows = json.loads(run("show", tmp_path / "store", "--json"))["sets"]
    assert [(row["name"], row["counts"]) for row in rows] == [("E2", {"train": 2})]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "demmo"], "'demo'"),
        (["--preset", "demo", "--sets", "99"], "--sets.*99.*8"),
        (["--preset", "demo", "--sets", "E1,E99"], "--sets.*'E99'"),
        (["--preset", "demo", "--device", "cuda:77"], "cuda:77"),
    ],
)
def test_bad_requests_leave_nothing(tmp_path: Path, arguments: list[str], words: str):
    with pytest.raises(UserError, match=words):
        run("make", "--store", tmp_path / "store", *arguments)
    assert not (tmp_path / "store").exists()


def test_damage_is_named_with_exit_status_one(tmp_path: Path):
    store = tmp_path / "store"
    run("make", "--preset", "demo", "--store", store, "--sets", "E1", "--train", "2", "--val", "0")
    file = "shards/E1/train-00000.safetensors"
    content = bytearray((store / file).read_bytes())
    content[-1] ^= 1
    (store / file).write_bytes(content)
    assert file in run("verify", store, code=1)
    report = json.loads(run("verify", store, "--json", code=1))
    assert not report["whole"] and report["faults"][0]["file"] == file


def test_import_says_what_is_there_and_stops_or_goes_on(tmp_path: Path):
    np.save(tmp_path / "hall.npy", draw(5, 4, 8, 2))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "lab.yaml").write_text("fc_ghz: 3.7")
    store = tmp_path / "store"
    seen = run("import", tmp_path, "--dry-run", "--spec", tmp_path / "lab.yaml", "--store", store)
    for words in (
        "npy hall complex64 (5, 4, 8, 2), axes n,t,k,a",
        "4x8x2",
        "5 train",
        f"hall, --spec {tmp_path / 'lab.yaml'}: carrier 3.7 GHz",
        "hall, shape: slots 4, subcarriers 8",
        "hall, assumed: spacing 30 kHz, slot 1 ms",
        "hall: axes n,t,k,a are guessed: --axes says otherwise",
        "not imported: notes.txt: not a file of channels",
        "not imported: lab.yaml: not a file of channels",
        "1 set, 5 samples; 2 named above are not imported",
        "nothing is written",
    ):
        assert words in seen
    assert not store.exists()
    options = ["--axes", "n,t,a,k", "--role", "zeroshot", "--name", "hall-2"]
    seen = run("import", tmp_path / "hall.npy", "--store", store, *options)
    assert "1 set, 5 samples; nothing else is there" in seen and "imported from" in seen
    (row,) = json.loads(run("show", store, "--json"))["sets"]
    assert (row["name"], row["role"], row["shape"], row["counts"]) == ("hall-2", "zeroshot", [4, 2, 8], {"test": 5})
    assert row["published"] == "hall.npy" and row["origin"]["format"] == "arrays"
    assert "fc_ghz" in row["origin"]["assumed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--store: the folder of the store is missing"),
        (["--store", "STORE"], "no set can be imported"),
        (["--store", "STORE", "--format", "hetercsi"], "no set can be imported"),
        (["--store", "STORE", "--axes", "n,q"], "'q' in 'n,q' is no axis"),
        (["--store", "STORE", "--role", "training"], "take pretrain or zeroshot"),
        (["--store", "STORE", "--val-share", "1"], "--val-share"),
        (["--store", "STORE", "--spec", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_bad_imports_leave_nothing(tmp_path: Path, arguments: list[str], words: str):
    store = tmp_path / "store"
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(UserError, match=re.escape(words)):
        run("import", source, *(str(store) if word == "STORE" else word for word in arguments))
    assert not store.exists()
