"""The columns that an experiment's table of runs shows, kept in MLflow as a tag."""

import json
from pathlib import Path

from jobs.cli.ui import known_experiments
from orchestrator.tracking.experiment_view import VIEW_TAG, view_address
from orchestrator.tracking.mlflow_run import Tracker


def test_a_new_and_an_old_experiment_get_the_view(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_experiment("old", artifact_location=(tmp_path / "old").as_uri())
    for name in ("old", "new"):
        tracker = Tracker(uri, name, tmp_path / name, "demo", None)
        view = json.loads(client.get_experiment(tracker.experiment_id).tags[VIEW_TAG])
        assert "metrics.`data/epoch_padding_ratio`" in view["selectedColumns"]
    # Not the one that every database has, which no run of ours belongs to.
    known = known_experiments(uri)
    assert known.keys() == {"old", "new"} and known["old"] == client.get_experiment_by_name("old").experiment_id


def test_the_address_names_the_experiment_and_its_view() -> None:
    assert view_address("http://h:1/", "3") == "http://h:1/#/experiments/3/runs?viewStateShareKey=wavetrain"
