"""The MLflow run of a live run: one run whoever connects first, one line when it goes away and when it is back."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking import delivery as deliveries
from orchestrator.tracking import model_registry
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.run_tracking import RunTracking

SHAPE = (8, 16, 4)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def a_tracking(directory: RunDirectory, uri: str, said: list[str]) -> RunTracking:
    return RunTracking(directory, Delivery(directory, uri, "test", directory.path / "mlartifacts", "run"), said.append)


def test_two_threads_that_connect_at_the_same_time_make_one_run(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class SlowTracker:
        experiment_id, last_step = "1", -1

        def __init__(self, *arguments: Any) -> None:
            time.sleep(0.2)
            self.run_id = f"run-{len(made)}"
            made.append(self.run_id)

        def tags(self, tags: dict[str, str]) -> None:
            pass

    monkeypatch.setattr(deliveries, "Tracker", SlowTracker)
    tracking = a_tracking(directory, NOBODY, [])
    tracking.outbox.tags({"launcher": "local"})
    shared = tracking._delivery
    threads = [threading.Thread(target=work) for work in (shared.connect, shared.deliver, shared.connect)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["run-0"]
    assert shared.delivered.run_id == "run-0" and not shared.pending()


def test_an_absent_mlflow_is_said_once_and_once_more_when_it_answers(directory: RunDirectory) -> None:
    said: list[str] = []
    tracking = a_tracking(directory, NOBODY, said)
    for problem in (None, "ConnectionError: refused", "ConnectionError: refused", None, None):
        tracking._thread.problem = problem
        tracking.follow()
    assert len(said) == 2
    assert said[0].startswith("MLflow does not answer (ConnectionError: refused); training goes on")
    assert said[1] == "MLflow answers again"


def test_a_new_run_needs_mlflow_and_one_under_way_does_not(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "LAST_DELIVERY_S", 0.1)

    def refuse(*arguments: Any) -> None:
        raise UserError("MLflow refuses")

    monkeypatch.setattr(deliveries, "Tracker", refuse)
    with pytest.raises(UserError, match="refuses"):
        a_tracking(directory, NOBODY, []).start(required=True)
    said: list[str] = []
    tracking = a_tracking(directory, NOBODY, said)
    tracking.start(required=False)
    assert said == ["MLflow refuses; training goes on, what MLflow misses is kept and sent later"]
    assert tracking.end({"wavetrain.cause": "none"}, "FINISHED") is not None
    assert [event["kind"] for event in read_events(directory.tracking)[0]] == ["tags", "end"]


def test_a_model_that_cannot_be_registered_is_said_and_no_more(
    directory: RunDirectory, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracking = a_tracking(directory, f"sqlite:///{tmp_path / 'mlflow.db'}", said)
    monkeypatch.setattr(model_registry, "register_model", lambda *arguments: "4")
    tracking.register_model(directory.export, "test-hetercsi", SHAPE)
    assert read_events(directory.tracking)[0][-1]["values"] == {"model.version": "test-hetercsi/4"}

    def full(*arguments: object) -> str:
        raise OSError("no space\nleft")

    monkeypatch.setattr(model_registry, "register_model", full)
    tracking.register_model(directory.export, "test-hetercsi", SHAPE)
    assert said == ["warning: the model is not registered (OSError: no space left)"]
