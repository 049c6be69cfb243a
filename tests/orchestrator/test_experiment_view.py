"""The columns that an experiment's table of runs shows, kept in MLflow as a tag."""

import json
from pathlib import Path

from jobs.ui_command import known_experiments
from orchestrator.experiment_view import VIEW_TAG, view_address
from orchestrator.rundir import RunDirectory
from orchestrator.tracking import Tracker


def test_a_new_and_an_old_experiment_get_the_view(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_experiment("old", artifact_location=(tmp_path / "old").as_uri())
    for name in ("old", "new"):
        tracker = Tracker(uri, name, tmp_path / name, "demo", None)
        view = json.loads(client.get_experiment(tracker.experiment_id).tags[VIEW_TAG])
        assert "metrics.`data/epoch_padding_ratio`" in view["selectedColumns"]


def test_addresses_are_of_the_experiments_of_the_runs(tmp_path: Path) -> None:
    for name, experiment in (("a", "3"), ("b", "3"), ("c", "4")):
        (tmp_path / name).mkdir()
        RunDirectory(tmp_path / name).update_state(mlflow_experiment_id=experiment)
    assert known_experiments(tmp_path) == {"3", "4"}
    assert view_address("http://h:1/", "3") == "http://h:1/#/experiments/3/runs?viewStateShareKey=wavetrain"
