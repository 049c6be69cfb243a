"""Offline a run asks no MLflow; ``wavetrain sync`` makes the run that MLflow would have got while it trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from channels.store import ChannelStore
from jobs.cli.sync import complete
from models.export import save_model
from models.registry import make_spec
from orchestrator.run.events import EventWriter, read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking import delivery as deliveries
from orchestrator.tracking import model_registry
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.run_tracking import OFFLINE, RunTracking
from tests.orchestrator.control.stand_ins import FakeTracker

STEPS = 40
BEGAN_S = 1_700_000_000.0
OWN_TAGS = ("wavetrain.key", "mlflow.log-model.history")
"""Of every MLflow run another value."""


def a_delivery(directory: RunDirectory, uri: str) -> Delivery:
    return Delivery(directory, uri, "study", directory.path.parent / "mlartifacts", "run")


def trained(directory: RunDirectory, tracking: RunTracking, store: Path) -> str | None:
    """What a controller and rank 0 leave of a run from start to end; what was wrong with MLflow."""
    (directory.path / "plan.json").write_text("{}")
    tracking.start(required=True)
    outbox = tracking.outbox
    outbox.parameters({"train": {"lr": 0.1}, "seed": 3})
    outbox.tags({"launcher": "local", "mlflow.note.content": "running."})
    outbox.dataset("store", "0123", "/store", "{}", "training")
    outbox.metrics({"data/plan_padding_ratio": 0.25}, step=0, time_s=BEGAN_S)
    outbox.artifact(directory.path / "plan.json")
    with EventWriter(directory.events) as events:
        events.write("attempt", step=0, time=BEGAN_S)
        for step in range(1, STEPS + 1):
            metrics = {"train/loss": 1 / step, "train/lr": step / STEPS}
            events.write("step", step=step, metrics=metrics, time=BEGAN_S + step)
        events.write("system", step=STEPS, metrics={"system/n1/cpu_utilization_percentage": 50.0}, time=BEGAN_S)
        events.write("epoch", step=STEPS, metrics={"data/coverage": 1.0}, time=BEGAN_S + STEPS)
    outbox.metrics({"eval/nmse_db/avg": -3.0}, step=STEPS, time_s=BEGAN_S + STEPS)
    tracking.follow()
    tracking.register_model(directory.export, "study-hetercsi", model_registry.smallest_shape(ChannelStore.open(store)))
    directory.update_state(status="FINISHED")
    return tracking.end({"wavetrain.cause": "none", "mlflow.note.content": "done."}, "FINISHED")


def everything(uri: str, run_id: str) -> Mapping[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    [version] = client.search_model_versions(f"run_id='{run_id}'")
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parameters": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if key not in OWN_TAGS},
        "metrics": {
            key: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, key)]
            for key in sorted(run.data.metrics)
        },
        "files": [item.path for item in client.list_artifacts(run_id)],
        "datasets": [entry.dataset.to_dictionary() for entry in run.inputs.dataset_inputs],
        "model": (version.name, version.version),
    }


def times(uri: str, run_id: str) -> tuple[int, int]:
    """Milliseconds since 1970 of begin and end."""
    from mlflow import MlflowClient

    info = MlflowClient(tracking_uri=uri).get_run(run_id).info
    return info.start_time, info.end_time


@pytest.fixture
def a_run(tmp_path: Path) -> Any:
    """A run's folder with its exported model."""

    def make(name: str) -> RunDirectory:
        directory = RunDirectory(tmp_path / name / "run")
        options = {"size": "tiny"}
        save_model(directory.export, "hetercsi", options, make_spec("hetercsi", options).build(seed=5))
        return directory

    return make


def test_offline_then_sync_is_the_run_that_online_makes(
    a_run: Any, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online, offline = a_run("online"), a_run("offline")
    uris = [f"sqlite:///{directory.path.parent / 'mlflow.db'}" for directory in (online, offline)]
    said: list[str] = []
    assert trained(online, RunTracking(online, a_delivery(online, uris[0]), said.append), small_store) is None
    at_once = everything(uris[0], str(online.read_state()["mlflow_run_id"]))

    with monkeypatch.context() as away:
        away.setattr(deliveries, "Tracker", lambda *arguments: pytest.fail("MLflow is asked"))
        tracking = RunTracking(offline, a_delivery(offline, uris[1]), said.append, is_offline=True)
        assert trained(offline, tracking, small_store) == OFFLINE
    assert not offline.delivered.exists() and not (offline.path.parent / "mlflow.db").exists() and said == []

    run_id = complete(offline, a_delivery(offline, uris[1]))
    kept = [entry["time"] for entry in read_events(offline.tracking)[0]]
    assert times(uris[1], run_id) == (int(kept[0] * 1000), int(kept[-1] * 1000)), "it began and ended when it did"
    later = everything(uris[1], run_id)
    assert later == at_once
    assert [step for step, *_ in later["metrics"]["train/loss"]] == list(range(1, STEPS + 1))
    assert complete(offline, a_delivery(offline, uris[1])) == run_id and everything(uris[1], run_id) == at_once


def test_a_model_that_the_registry_refuses_does_not_hold_up_the_rest(
    a_run: Any, small_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> str:
        raise OSError("no registry\nhere")

    monkeypatch.setattr(model_registry, "register_model", refuse)
    directory, tracker = a_run("offline"), FakeTracker()
    delivery = a_delivery(directory, "sqlite:///none")
    trained(directory, RunTracking(directory, delivery, print, is_offline=True), small_store)
    delivery._tracker = tracker  # type: ignore[assignment]
    delivery.deliver()
    assert tracker.status == "FINISHED" and "model.version" not in tracker.tagged
    assert "the model is not registered (OSError: no registry here)" in caplog.text
