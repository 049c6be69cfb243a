"""MLflow may be away for a while: nothing waits for it, nothing is lost, nothing comes twice."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import parse_json
from jobs.cli.sync import complete
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.delivery import Delivery, DeliveryThread
from orchestrator.tracking.mlflow_run import Tracker
from orchestrator.tracking.outbox import Outbox

NOBODY = "http://127.0.0.1:9"


def steps(directory: RunDirectory, first: int, last: int) -> None:
    with EventWriter(directory.events) as events:
        for step in range(first, last + 1):
            events.write("step", step=step, metrics={"train/loss": 1 / step})


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    (directory.path / "note.txt").write_text("kept")
    outbox = Outbox(directory)
    outbox.parameters({"train": {"lr": 0.1}})
    outbox.tags({"launcher": "local"})
    outbox.artifact(directory.path / "note.txt")
    outbox.dataset("store", "0123", "/store", "{}", "training")
    steps(directory, 1, 5)
    outbox.metrics({"eval/nmse_db/time/avg": -3.0}, step=5, time_s=time.time())
    outbox.end("FINISHED")
    outbox.close()
    directory.update_state(status="FINISHED")
    return directory


def delivery(directory: RunDirectory, uri: str) -> Delivery:
    return Delivery(directory, uri, "test", directory.path.parent / "mlartifacts", "run")


def everything(uri: str, run_id: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    return {
        "status": run.info.status,
        "params": run.data.params,
        "launcher": run.data.tags["launcher"],
        "loss": [(point.step, point.value) for point in client.get_metric_history(run_id, "train/loss")],
        "score": [point.value for point in client.get_metric_history(run_id, "eval/nmse_db/time/avg")],
        "files": [item.path for item in client.list_artifacts(run_id)],
        "inputs": len(run.inputs.dataset_inputs),
    }


def test_an_absent_server_is_reported_and_sync_completes_the_run_once(directory: RunDirectory, tmp_path: Path) -> None:
    thread = DeliveryThread(delivery(directory, NOBODY))
    thread.start()
    problem = thread.finish()
    assert problem is not None
    assert parse_json(directory.delivered.read_bytes())["run_id"] is None

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = complete(directory, delivery(directory, uri))
    found = everything(uri, run_id)
    assert found == {
        "status": "FINISHED", "params": {"train.lr": "0.1"}, "launcher": "local",
        "loss": [(step, 1 / step) for step in range(1, 6)], "score": [-3.0], "files": ["note.txt"], "inputs": 1,
    }  # fmt: skip
    assert complete(directory, delivery(directory, uri)) == run_id
    directory.delivered.unlink()
    again = Delivery(directory, uri, "test", tmp_path / "mlartifacts", "run")
    again._tracker = Tracker(uri, "test", tmp_path / "mlartifacts", "run", run_id)
    again.deliver()
    assert everything(uri, run_id) == found
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert everything(other, complete(directory, delivery(directory, other))) == found, "another server gets all of it"


def test_a_locked_database_delays_and_the_thread_catches_up(directory: RunDirectory, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    waiting = delivery(directory, uri)
    run_id = waiting.connect().run_id
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    thread = DeliveryThread(waiting)
    thread.start()
    deadline = time.monotonic() + 120
    while thread.problem is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "locked" in thread.problem
    lock.execute("ROLLBACK")
    lock.close()
    steps(directory, 6, 7)
    deadline = time.monotonic() + 120
    while thread.problem is not None or waiting.pending():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert thread.finish() is None
    assert [step for step, _ in everything(uri, run_id)["loss"]] == list(range(1, 8))


def test_a_full_disk_is_one_line() -> None:
    full = Path("/dev/full")
    with pytest.raises(UserError, match="the disk is full"), EventWriter(full) as writer:
        writer.write("step", step=1)


def test_a_folder_that_was_moved_and_a_file_that_is_gone_do_not_stop_a_delivery(
    directory: RunDirectory, tmp_path: Path
) -> None:
    outbox = Outbox(directory)
    outbox.artifact(directory.path / "never-written.txt")
    outbox.close()
    moved = RunDirectory(directory.path.rename(tmp_path / "moved"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = everything(uri, complete(moved, delivery(moved, uri)))
    assert found["files"] == ["note.txt"] and found["status"] == "FINISHED"


def test_an_end_that_the_folder_cannot_take_is_sent_directly(directory: RunDirectory, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    thread = DeliveryThread(delivery(directory, uri))
    thread.delivery.deliver()
    assert thread.end_directly({"launcher": "another"}, "FAILED") is None
    found = everything(uri, thread.delivery.connect().run_id)
    assert (found["status"], found["launcher"]) == ("FAILED", "another")
    assert DeliveryThread(delivery(directory, NOBODY)).end_directly({}, "FAILED") is not None
