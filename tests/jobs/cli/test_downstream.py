"""``wavetrain downstream``: options and files, what is written, MLflow, and what is refused in one line."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.files import write_json
from orchestrator.run.folder import RunDirectory
from tests.jobs.cli.conftest import Command
from tests.jobs_for_tests import small_job
from tests.orchestrator.downstream.scenes import make_exports, make_scenes

TASK = {
    "name": "sight", "feature": "class", "hidden": [4], "loss": "cross_entropy", "metrics": ["accuracy"],
    "label": ["los"], "classes": 2, "training": {"epochs": 1, "batch": 64},
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store, a task of one's own, an export and a run without final weights."""
    make_scenes(tmp_path / "store", count=24)
    make_exports(tmp_path / "exports", "wimamba")
    directory = RunDirectory(tmp_path / "runs" / "begun")
    directory.path.mkdir(parents=True)
    write_json(directory.spec, small_job(tmp_path / "store", "begun").model_dump(mode="json"))
    (tmp_path / "sight.yaml").write_text(yaml.safe_dump(TASK))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def downstream(wavetrain: Command) -> Command:
    return partial(wavetrain, "downstream")


def test_a_comparison_its_files_and_mlflow(place: Path, downstream: Any) -> None:
    """Raw alone, so that no further process is started; the task comes from an option, the rest from the file."""
    (place / "comparison.yaml").write_text(yaml.safe_dump({
        "name": "tried", "store": "store", "encoders": {"channel": "raw"}, "shares": [50, 100], "seeds": 2,
        "split": {"regions": 4},
    }))  # fmt: skip
    code, out, error = downstream("--spec", "comparison.yaml", "--tasks", "sight.yaml", "--split", "random")
    assert code == 0, error
    assert "## sight: accuracy" in out and "| channel 4x4 |" in out and "users at random" in out
    folder = place / "runs" / "tried.downstream"
    assert (folder / "fig3.png").stat().st_size > 1000
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    kept = json.loads((folder / "mlflow.json").read_text())
    [(name, child)] = kept["children"].items()
    assert name == "tried.channel-p4.sight"
    run = client.get_run(child["run"])
    assert run.data.tags["mlflow.parentRunId"] == kept["parent"]
    history = client.get_metric_history(child["run"], "downstream/sight/accuracy")
    assert [point.step for point in history] == [50, 100]
    assert "downstream/sight/accuracy_deviation" in run.data.metrics
    files = {entry.path for entry in client.list_artifacts(kept["parent"])}
    assert {"downstream.csv", "downstream.md", "fig3.svg", "cost.png"} <= files
    code, again, _ = downstream("--spec", "comparison.yaml", "--tasks", "sight.yaml", "--split", "random")
    assert code == 0 and again == out
    assert len(client.get_metric_history(child["run"], "downstream/sight/accuracy")) == 2


REFUSED = [
    ((), "no encoder is named"),
    (("raw",), "no store is named"),
    (("raw", "raw", "--store", "store"), "two encoders are called 'raw'"),
    (("begun", "--store", "store"), "encoder begun: it has no final weights"),
    (("nothing", "--store", "store"), "no run 'nothing'"),
    (("exports/wimamba", "--store", "store", "--patches", "8"), "wimamba has no patches of side 8; it has 4, 6"),
    (("raw", "--store", "store", "--patches", "four"), "'four' are no whole numbers"),
    (("raw", "--store", "store", "--tasks", "beam", "--set", "seeds=0"), "--set seeds=0: seeds = 0"),
    (("raw", "--store", "store", "--split", "scenario"), "by scenario and the names of test go together"),
    (("raw", "--store", "none"), "no such store"),
    (("raw", "--store", "store", "--tasks", "nowhere.yaml"), "nowhere.yaml: no such file"),
    (("raw", "--store", "store", "--tasks", "bad.yaml"), "a task on patches predicts the channel"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_bad_input_is_one_line_and_code_2(place: Path, downstream: Any, arguments: tuple[str, ...], said: str) -> None:
    (place / "bad.yaml").write_text(yaml.safe_dump({**TASK, "feature": "patches"}))
    code, out, error = downstream(*arguments)
    assert (code, out) == (2, "")
    assert said in error and error.count("\n") == 1
    assert not list((place / "runs").glob("*.downstream"))
