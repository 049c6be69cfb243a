"""``wavetrain evaluate``: runs, exports without a run, several models in one table; what it refuses."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from channels.files import write_json
from models.export import save_model
from models.registry import make_spec
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.run.folder import RunDirectory
from tests.jobs.cli.conftest import Command
from tests.jobs_for_tests import small_job

OPTIONS: dict[str, Any] = {"size": "tiny", "position": "grid"}
LWM: dict[str, Any] = {"size": "tiny", "patches": [4], "positions": 17}
"""In patches of 4 it takes both held-out sets, in patches of 2 the smaller one, H1."""


def make_export(folder: Path, name: str = "hetercsi", options: dict[str, Any] = OPTIONS, seed: int = 0) -> Path:
    save_model(folder, name, options, make_spec(name, options).build(seed))
    return folder


@pytest.fixture
def place(tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an export and a run ``trained`` of other weights that scores five samples a set."""
    make_export(tmp_path / "released")
    directory = RunDirectory(tmp_path / "runs" / "trained")
    make_export(directory.export, seed=1)
    job = small_job(small_store, "trained", evaluation={"samples": 5}, data={"zeroshot_sets": ["H2"]})
    write_json(directory.spec, job.model_dump(mode="json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluate(wavetrain: Command) -> Command:
    return partial(wavetrain, "evaluate")


def test_an_export_is_scored_without_a_run(place: Path, small_store: Path, evaluate) -> None:
    code, out, _ = evaluate("released", "--store", str(small_store), "--json")
    assert code == 0
    scores = json.loads(out)["scores"]
    assert {score["set_name"] for score in scores} == {"H1", "H2"}
    expected = evaluate_set(place / "released", small_store, "H2", small_job(small_store))
    found = [score for score in scores if score["set_name"] == "H2"]
    assert [score["nmse"] for score in found] == pytest.approx([score.nmse for score in expected])
    assert {score["samples"] for score in scores} == {10}
    assert not (place / "runs" / "released").exists()


def test_sets_are_chosen_by_name(place: Path, small_store: Path, evaluate) -> None:
    code, out, _ = evaluate("released", "--store", str(small_store), "--sets", "H2")
    assert code == 0 and "zero-shot results of released" in out and "H2" in out and "H1" not in out
    code, _, error = evaluate("released", "--store", str(small_store), "--sets", "H2,H9")
    assert code == 2 and "no set 'H9'" in error and error.count("\n") == 1
    code, out, _ = evaluate("trained", "--sets", "H1", "--json")
    assert code == 0 and {score["set_name"] for score in json.loads(out)["scores"]} == {"H1"}


def test_an_export_and_a_run_share_a_table_and_its_conditions(place: Path, evaluate) -> None:
    """The export is scored as the run is: the same store, sets, samples and noise."""
    code, out, _ = evaluate("trained", "released", "--json")
    assert code == 0
    models = json.loads(out)["models"]
    assert list(models) == ["trained", "released"]
    keys = ("task", "set_name", "predictor", "samples")
    parts = [[tuple(score[key] for key in keys) for score in found["scores"]] for found in models.values()]
    assert parts[0] == parts[1] and {part[3] for part in parts[0]} == {5}
    nmse = {name: [s["nmse"] for s in models[name]["scores"] if s["predictor"] == "model"] for name in models}
    assert nmse["trained"] != nmse["released"]
    code, out, _ = evaluate("released", "trained")
    lines = [line for line in out.splitlines() if "H2" in line or "average" in line]
    assert code == 0 and len(lines) == 6 and all(line.count("(") == 2 for line in lines)


def test_models_of_other_tasks_leave_cells_empty(place: Path, small_store: Path, evaluate) -> None:
    make_export(place / "lwm", "lwm", LWM)
    code, out, _ = evaluate("released", "lwm", "--store", str(small_store), "--sets", "H2")
    rows = {tuple(line.replace("│", " ").split()[:2]): line for line in out.splitlines() if "H2" in line}
    assert code == 0 and len(rows) == 4
    assert rows["time", "H2"].split()[-2] == "-" or rows["time", "H2"].rstrip(" │").endswith("-")
    assert rows["reconstruction_4x4", "H2"].count("(") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["released"], "released: an export has no store of its own; add --store STORE"),
        (["nobody"], "no run 'nobody'"),
        (["released", "./released", "--store", "STORE"], "two models are called 'released'"),
        (["narrow", "--store", "STORE"], "set H2: positions: 33 tokens"),
        (["damaged", "--store", "STORE"], "is not the configuration of an exported model"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    arguments: list[str], says: str, place: Path, small_store: Path, evaluate
) -> None:
    make_export(place / "narrow", "lwm", {**LWM, "patches": [2]})
    (place / "damaged").mkdir()
    (place / "damaged" / "config.json").write_text("{}")
    code, _, error = evaluate(*(argument.replace("STORE", str(small_store)) for argument in arguments))
    assert code == 2 and says in error and error.count("\n") == 1


def a_fullshot_run(folder: Path, store: Path, target: str) -> None:
    directory = RunDirectory(folder / "runs" / "rival")
    make_export(directory.export, "lstm", {"slots": 8, "subcarriers": 16, "antennas": 4})
    job = small_job(store, "rival", replace_model={"name": "lstm"}, data={"target": target})
    write_json(directory.spec, job.model_dump(mode="json"))


def test_a_full_shot_model_is_scored_on_its_target_alone(place: Path, small_store: Path, evaluate) -> None:
    a_fullshot_run(place, small_store, "H1")
    code, out, _ = evaluate("rival", "--json")
    document = json.loads(out)
    assert code == 0 and (document["shot"], document["target"]) == ("full", "H1")
    assert {score["set_name"] for score in document["scores"]} == {"H1"}
    code, out, _ = evaluate("rival", "--store", str(small_store))
    assert code == 0 and "full-shot results of rival" in " ".join(out.split())
    code, out, _ = evaluate("rival", "released", "--sets", "H1,H2")
    assert code == 0 and "rival (full-shot)" in out and "zero-shot and full-shot results" in out
    code, out, _ = evaluate("runs/rival/model", "--store", str(small_store))
    assert code == 0 and "full-shot results of model" in " ".join(out.split())
    code, _, error = evaluate("rival", "--sets", "H2")
    assert code == 2 and "trained on H1 alone" in error and error.count("\n") == 1
