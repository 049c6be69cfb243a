import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from channels.errors import UserError
from jobs.cli.channels import app

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


def test_import(tmp_path: Path):
    with pytest.raises(UserError, match="no HeterCSI set"):
        run("import", tmp_path, "--store", tmp_path / "store", "--format", "hetercsi")
    assert not (tmp_path / "store").exists()
