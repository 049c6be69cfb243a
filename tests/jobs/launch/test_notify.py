"""Notices of the end of a run, against a server and a shell of this machine."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.launch import notify as notices
from jobs.launch.notify import Notice, link_to, notify, send
from jobs.launch.outcome import failure_noticed, notify_end
from orchestrator.control.prepared import RunOutcome
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import ClusterSpec, Profile
from orchestrator.spec.notify import NotifySection
from orchestrator.spec.yaml_files import validate

NOTICE = Notice("failed", "run", "no room", "/runs/run")


@dataclass
class Server:
    """What a webhook got, and what it answers with. waits: to be set before it answers."""

    url: str = ""
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)
    waits: threading.Event | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if state.waits is not None:
                state.waits.wait(30)
            self.send_response(state.status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/hooks/s3cret?key=s3cret"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield state
        if state.waits is not None:
            state.waits.set()
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def profile_of(runs: Path, **section: Any) -> Profile:
    return Profile.model_validate({"storage": {"runs": str(runs)}, "notify": section})


def test_a_webhook_and_a_command_get_run_cause_and_link(tmp_path: Path, server: Server) -> None:
    command = f'echo "$WAVETRAIN_EVENT|$WAVETRAIN_RUN|$WAVETRAIN_CAUSE|$WAVETRAIN_LINK" > {tmp_path}/said'
    directory, warnings = RunDirectory(tmp_path / "a"), list[str]()
    notify(profile_of(tmp_path, command=command, webhook=server.url), directory, "failed", "no room", warnings.append)
    assert (tmp_path / "said").read_text() == f"failed|a|no room|{directory.path}\n"
    fields = {"event": "failed", "run": "a", "cause": "no room", "link": str(directory.path), "earlier": []}
    assert server.got == [{"text": f"wavetrain: run a failed (no room): {directory.path}", **fields}]
    assert not warnings


def test_there_is_at_most_one_a_minute_and_the_next_brings_the_others(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, warnings = profile_of(tmp_path, webhook=server.url), list[str]()
    notify(profile, RunDirectory(tmp_path / "a"), "preempted", None, warnings.append)
    notify(profile, RunDirectory(tmp_path / "b"), "failed", "no room", warnings.append)
    assert [notice["run"] for notice in server.got] == ["a"]
    assert warnings == ["warning: no notice of failed: another one was sent within a minute; the next one brings it"]
    monkeypatch.setattr(notices, "EVERY_S", 0.0)
    notify(profile, RunDirectory(tmp_path / "c"), "finished", None, warnings.append)
    assert server.got[1]["run"] == "c"
    assert server.got[1]["earlier"] == [f"wavetrain: run b failed (no room): {tmp_path / 'b'}"]


def test_events_that_are_not_asked_for_are_not_sent(tmp_path: Path, server: Server) -> None:
    profile = profile_of(tmp_path, webhook=server.url, on=["failed"])
    notify(profile, RunDirectory(tmp_path / "a"), "finished", None, pytest.fail)
    notify(Profile(), RunDirectory(tmp_path / "a"), "failed", None, pytest.fail)
    assert not server.got and not list(tmp_path.iterdir())


def test_a_refusal_shows_no_secret(server: Server) -> None:
    server.status = 403
    (problem,) = send(NotifySection(webhook=server.url, command=None), NOTICE)
    assert problem.endswith("/... answers with status 403") and "s3cret" not in problem
    (problem,) = send(NotifySection(webhook="http://user:s3cret@127.0.0.1:9/s3cret", command=None), NOTICE)
    assert problem.startswith("http://127.0.0.1:9/... (") and "s3cret" not in problem
    assert send(NotifySection(command="echo s3cret >&2; exit 3"), NOTICE) == ["notify.command ended with status 3"]


@pytest.mark.parametrize(
    "webhook", ["htp://host/s3cret", "s3cret", "https:///s3cret", "http://host:x/s3cret", ["s3cret"]]
)
def test_an_address_that_is_none_is_refused_without_showing_it(webhook: Any) -> None:
    fields = {"default": "here", "profiles": {"here": {"notify": {"webhook": webhook}}}}
    with pytest.raises(UserError, match=r"profiles\.here\.notify: .*no http or https address") as refusal:
        validate(ClusterSpec, fields, "cluster.yaml")
    assert "s3cret" not in str(refusal.value)


def test_what_does_not_end_is_left_behind(server: Server) -> None:
    server.waits = threading.Event()
    begun = time.monotonic()
    problems = send(NotifySection(webhook=server.url, command="sleep 60 & sleep 60"), NOTICE, limit_s=0.3)
    assert time.monotonic() - begun < 10, "the limit and no more"
    assert "notify.command has not ended in 0.3 s" in problems and len(problems) == 2


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, server: Server) -> None:
    warnings = list[str]()
    notify(
        profile_of(tmp_path / "gone", webhook=server.url), RunDirectory(tmp_path / "a"), "failed", "x", warnings.append
    )
    assert len(warnings) == 1 and "FileNotFoundError" in warnings[0]


def test_the_link_is_the_page_on_the_server(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "a")
    directory.path.mkdir()
    assert link_to(directory) == str(directory.path)
    write_json(directory.spec, {"tracking": {"uri": "https://me:s3cret@mlflow.example:5000/"}})
    directory.update_state(mlflow_run_id="7", mlflow_experiment_id="3")
    assert link_to(directory) == "https://mlflow.example:5000/#/experiments/3/runs/7"


@pytest.mark.parametrize(
    ("status", "number", "events"),
    [("FINISHED", None, ["finished"]), ("FAILED", None, ["failed"]), ("KILLED", 15, ["preempted"]), ("KILLED", 2, []),
     ("KILLED", None, [])],
)  # fmt: skip
def test_the_end_of_a_run_is_an_event(
    tmp_path: Path, server: Server, status: Any, number: int | None, events: list[str]
) -> None:
    outcome = RunOutcome(status, RunDirectory(tmp_path / "a"), "", cause="why", signal=number)
    notify_end(outcome, profile_of(tmp_path, webhook=server.url))
    assert [notice["event"] for notice in server.got] == events


@pytest.mark.parametrize("begun", [True, False])
def test_an_error_of_a_run_that_has_begun_is_a_failure(tmp_path: Path, server: Server, begun: bool) -> None:
    profile, directory = profile_of(tmp_path, webhook=server.url), RunDirectory(tmp_path / "a")
    with pytest.raises(UserError, match="no room"), failure_noticed(profile, directory, lambda: begun):
        raise UserError("no room")
    assert [notice["cause"] for notice in server.got] == (["no room"] if begun else [])
