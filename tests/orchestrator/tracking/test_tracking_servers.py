"""Tracking on a real MLflow server, alone and behind basic authentication."""

import base64
import http.client
import platform
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from channels.errors import UserError
from jobs.node import doctor
from models.export import load_model, save_model
from models.registry import make_spec
from orchestrator.tracking.mlflow_run import WRITE_PROBE, Tracker, check_uri
from orchestrator.tracking.model_registry import register_model
from tests.e2e.mlflow_server import mlflow_server

USER, PASSWORD = "group", "s3cret-word"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server on loopback with its own database and artifacts."""
    with mlflow_server(tmp_path_factory.mktemp("servers") / "server") as running:
        yield running.uri


class Gate(BaseHTTPRequestHandler):
    """Passes on what comes with the right user and password, and /health, which MLflow's own login leaves open."""

    behind = ""
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/health" and self.headers.get("Authorization") != self.wanted:
            self.send_error(401)
            return
        onward = http.client.HTTPConnection(self.behind, timeout=60)
        own = ("authorization", "host", "connection", "accept-encoding")
        headers = {key: value for key, value in self.headers.items() if key.lower() not in own}
        onward.request(self.command, self.path, body=body, headers=headers)
        answer = onward.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        onward.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        return


class ReadOnlyGate(Gate):
    """Refuses whatever a reader may not do."""

    def answer(self) -> None:
        changes = self.command != "GET" and not self.path.endswith("/search")
        self.send_error(403) if changes else super().answer()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815


@pytest.fixture(scope="module")
def gate(server: str) -> Iterator[str]:
    """Address of a proxy before the server that asks for a user and a password."""
    yield from serve(Gate, server)


@pytest.fixture(scope="module")
def read_only_gate(server: str) -> Iterator[str]:
    """Such a proxy that lets the user read only."""
    yield from serve(ReadOnlyGate, server)


def serve(gate: type[Gate], server: str) -> Iterator[str]:
    handler = type("GateBeforeServer", (gate,), {"behind": server.removeprefix("http://")})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_address[1]}"
    proxy.shutdown()


def track_a_run(uri: str, folder: Path, name: str) -> str:
    """Everything a run sends; its id."""
    export, options = folder / "export", {"patches": [2]}
    save_model(export, "raw", options, make_spec("raw", options).build(seed=0))
    check_uri(uri)
    tracker = Tracker(uri, "study", folder / "unused", name, None)
    tracker.parameters({"train": {"lr": 1e-3}})
    tracker.tags({"plan.hash": "abc"})
    tracker.metrics({"train/loss": 0.5}, step=3, time_s=1.0)
    tracker.dataset("demo", "d1", "data/demo", "{}", "training")
    tracker.artifact(export / "config.json")
    assert register_model(uri, tracker.run_id, export, f"{name}-raw", (1, 4, 4)) == "1"
    tracker.end("FINISHED")
    return tracker.run_id


def assert_tracked(uri: str, run_id: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = MlflowClient(uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"train/loss": 0.5}
    assert run.data.params == {"train.lr": "0.001"} and run.data.tags["plan.hash"] == "abc"
    assert run.inputs.dataset_inputs[0].dataset.digest == "d1"
    loaded = Path(download_artifacts(f"models:/{name}-raw/1", dst_path=str(folder)))
    load_model(loaded / "extra_files")


def test_a_server_holds_the_run_its_files_and_its_model(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = track_a_run(server, tmp_path, "open")
    assert not (tmp_path / "unused").exists()
    assert_tracked(server, run_id, "open", tmp_path, monkeypatch)


def test_user_and_password_come_from_the_environment(
    gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    run_id = track_a_run(gate, tmp_path, "closed")
    assert_tracked(gate, run_id, "closed", tmp_path, monkeypatch)


def test_doctor_tries_to_write(server: str, read_only_gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    assert doctor._tracking(server).verdict == doctor._tracking(server).verdict == "ok"
    probe = MlflowClient(server).get_experiment_by_name(WRITE_PROBE)
    assert probe is not None and f"wavetrain.host.{platform.node()}" in probe.tags
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    found = doctor._tracking(read_only_gate)
    assert found.verdict == "failed" and "cannot be written" in found.found and "403" in found.found


@pytest.mark.parametrize("user", [None, USER])
def test_a_wrong_login_is_one_clear_line(gate: str, user: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    if user:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        check_uri(gate)
    assert "wr0ng" not in str(refused.value)


@pytest.mark.parametrize("uri", ["http://me:{}@127.0.0.1:5000", "postgresql://me:{}@db/mlflow"])
def test_a_password_in_the_address_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="holds a password") as refused:
        check_uri(uri.format(PASSWORD))
    assert PASSWORD not in str(refused.value)
