"""A continued run in MLflow: nothing twice, nothing changed that is written once; children under their sweep."""

from pathlib import Path
from typing import Any

import pytest

from jobs.launch.sweep import PARENT_TAG, make_parent, mark_child, read_sweep
from orchestrator.control.provenance import launch_tags
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.tracking.mlflow_run import Tracker, default_uri

SPEC = Path(__file__).parents[3] / "jobs" / "demo.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a database."""
    return tmp_path_factory.mktemp("runs")


def a_tracker(runs: Path, run_id: str | None = None) -> Tracker:
    return Tracker(default_uri(runs), "study", runs / "mlartifacts", "demo", run_id)


def event(kind: str, step: int, **metrics: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "time": 100.0 + step, "metrics": metrics}


def test_a_resumed_attempt_goes_on_in_the_same_run(runs: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(runs))
    first = a_tracker(runs)
    first.parameters({"train": {"lr": 1e-3}, "checkpoint": {"every_steps": 5}})
    first.drain([event("step", step, **{"train/loss": 1.0 / step}) for step in (1, 2, 3)])
    first.end("FAILED")

    second = a_tracker(runs, first.run_id)
    second.last_step = first.last_step
    assert second.run_id == first.run_id and client.get_run(first.run_id).info.status == "RUNNING"
    second.parameters({"train": {"lr": 1e-3}, "checkpoint": {"every_steps": 7}, "seed": 1})
    second.drain([event("step", step, **{"train/loss": 1.0 / step}) for step in (2, 3, 4)])
    second.drain([event("system", 4, **{"system/n1/cpu_utilization_percentage": 50.0})])
    second.end("FINISHED")

    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.lr": "0.001", "checkpoint.every_steps": "5", "seed": "1"}
    assert [point.step for point in client.get_metric_history(first.run_id, "train/loss")] == [1, 2, 3, 4]
    assert run.data.metrics["system/n1/cpu_utilization_percentage"] == 50.0


def test_a_run_that_mlflow_has_forgotten_is_made_again(runs: Path) -> None:
    again = a_tracker(runs, "0" * 32)
    assert again.run_id != "0" * 32


def test_more_values_than_a_call_may_hold(runs: Path) -> None:
    from mlflow import MlflowClient

    tracker = a_tracker(runs)
    tracker.parameters({f"name_{number}": number for number in range(120)})
    tracker.drain([event("step", step, **{f"m{number}": 1.0 for number in range(9)}) for step in range(120)])
    run = MlflowClient(default_uri(runs)).get_run(tracker.run_id)
    assert len(run.data.params) == 120 and len(run.data.metrics) == 9


def test_children_lie_under_their_sweep(runs: Path) -> None:
    from mlflow import MlflowClient

    profile = Profile.model_validate({"storage": {"runs": runs}})
    sweep = read_sweep(SPEC, ["tracking.experiment=study", "name=s"], ["batching.strategy=bucket,global"])
    parent = make_parent(sweep, profile)
    assert make_parent(sweep, profile) == parent
    client = MlflowClient(default_uri(runs))
    for child in sweep.children:
        directory = RunDirectory(runs / child.name)
        mark_child(directory, parent)
        tracker = Tracker(default_uri(runs), "study", runs / "mlartifacts", child.name, None)
        tracker.tags(launch_tags(directory, profile.launcher))
    experiment = client.get_experiment_by_name("study").experiment_id
    found = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'")
    assert {run.info.run_name for run in found} == {child.name for child in sweep.children}
    assert client.get_run(parent).data.tags["wavetrain.sweep"] == "batching.strategy"
