"""A sweep on Ray, without Ray: how many children run at a time, and what a waiting one says of itself."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import JobState
from jobs.ray_cluster import jobs as ray_jobs
from jobs.ray_cluster import sweep as ray_sweep
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from tests.jobs.launches import job_of


class JobServer:
    """Jobs that end when they have been asked for so many times."""

    def __init__(self, lasts: int = 3) -> None:
        self.lasts, self.asked = lasts, dict[str, int]()
        self.most_at_once = 0
        self.entrypoints: list[str] = []
        self.refuses = False
        self.hiccups = False
        """Whether only every second call is answered."""
        self.calls = 0

    def submit_job(self, entrypoint: str, submission_id: str | None, **options: Any) -> str:
        self._answer()
        if self.refuses:
            raise RuntimeError("Request failed with status code 500")
        self.entrypoints.append(entrypoint)
        job_id = submission_id or f"raysubmit_{len(self.asked)}"
        self.asked[job_id] = 0
        self.most_at_once = max(self.most_at_once, sum(self._runs(other) for other in self.asked))
        return job_id

    def get_job_info(self, job_id: str) -> Any:
        self._answer()
        self.asked[job_id] += 1
        return SimpleNamespace(status="RUNNING" if self._runs(job_id) else "FAILED", message="broken")

    def stop_job(self, job_id: str) -> None:
        self.asked[job_id] = self.lasts

    def _answer(self) -> None:
        self.calls += 1
        if self.hiccups and self.calls % 2:
            raise ConnectionError("connection refused")

    def _runs(self, job_id: str) -> bool:
        return self.asked[job_id] < self.lasts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> JobServer:
    server = JobServer()
    monkeypatch.setattr(ray_jobs, "connect", lambda dashboard: server)
    monkeypatch.setattr(ray_sweep, "POLL_S", 0.0)
    return server


def profile_in(runs: Path) -> Profile:
    return Profile.model_validate(
        {"launcher": "ray", "ray_address": "10.0.0.1:1", "ray_dashboard": "http://10.0.0.1:2",
         "storage": {"runs": str(runs)}}
    )  # fmt: skip


def queued(runs: Path, count: int = 6, parallel: int = 2) -> tuple[str, list[LaunchFolder]]:
    children = [job_of(8).model_copy(update={"name": f"child-{number}"}) for number in range(count)]
    shared = LaunchFolder(RunDirectory(runs / "swept.sweep"))
    sweep = ray_sweep.submit(children, profile_in(runs), shared, parallel)
    return sweep, [LaunchFolder(RunDirectory(runs / child.name)) for child in children]


def test_at_most_so_many_at_a_time_and_all_in_the_end(tmp_path: Path, server: JobServer) -> None:
    sweep, launches = queued(tmp_path)
    server.lasts = 5
    server.asked.pop(sweep)
    assert ray_sweep.main(str(tmp_path / "swept.sweep" / "launch" / f"{sweep}.json")) == 0
    assert len(server.asked) == 6 and server.most_at_once == 2
    assert [launch.read_submission()["job_id"] for launch in launches] == list(server.asked)


def test_a_waiting_child_tells_for_whom_and_can_be_cancelled(tmp_path: Path, server: JobServer) -> None:
    sweep, launches = queued(tmp_path)
    server.lasts = 100
    waiting = ray_jobs.job_state(launches[3].read_submission())
    assert waiting == JobState("PENDING", f"waits for its turn in the sweep's job {sweep}")
    assert ray_jobs.logs(launches[3].read_submission()) == ""
    ray_jobs.stop(launches[3])
    assert ray_jobs.job_state(launches[3].read_submission()) == JobState("KILLED", "cancelled before its turn")
    server.lasts = 3
    ray_sweep.main(str(tmp_path / "swept.sweep" / "launch" / f"{sweep}.json"))
    assert launches[3].read_submission()["job_id"] is None and launches[4].read_submission()["job_id"] is not None


def test_children_of_a_sweep_that_ended_too_early_may_be_submitted_again(tmp_path: Path, server: JobServer) -> None:
    sweep, launches = queued(tmp_path)
    server.stop_job(sweep)
    found = ray_jobs.job_state(launches[0].read_submission())
    assert found.state == "KILLED" and "ended before its turn" in str(found.reason)


def test_a_server_that_is_silent_for_a_moment_does_not_end_the_sweep(
    tmp_path: Path, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, launches = queued(tmp_path)
    server.hiccups = True
    assert ray_sweep.main(str(tmp_path / "swept.sweep" / "launch" / f"{sweep}.json")) == 0
    assert [launch.read_submission()["job_id"] for launch in launches] == list(server.asked)[1:]


def test_a_job_that_ray_has_forgotten_is_over(
    tmp_path: Path, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten(job_id: str) -> None:
        raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")

    monkeypatch.setattr(server, "get_job_info", forgotten)
    assert ray_jobs.job_state({"job_id": "raysubmit_1", "dashboard": "http://x"}).state == "KILLED"


def test_a_refused_sweep_leaves_no_child_waiting(tmp_path: Path, server: JobServer) -> None:
    server.refuses = True
    with pytest.raises(UserError, match="status code 500"):
        queued(tmp_path)
    assert not list(tmp_path.glob("*/launch/submission.json"))


def test_the_snapshot_runs_whatever_lies_in_the_folder_where_ray_was_started(tmp_path: Path, server: JobServer) -> None:
    queued(tmp_path / "runs")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise SystemExit('the wrong code runs')")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -c "import jobs; print(jobs.__file__)"\n')
    (tmp_path / "python").chmod(0o755)
    command = server.entrypoints[0].replace(sys.executable, str(tmp_path / "python"))
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "/launch/code-" in done.stdout, done.stderr


def test_the_code_is_copied_once(tmp_path: Path, server: JobServer) -> None:
    sweep, launches = queued(tmp_path)
    plan = json.loads((tmp_path / "swept.sweep" / "launch" / f"{sweep}.json").read_text())
    assert Path(plan["code"]).is_dir() and not list(tmp_path.glob("child-*/launch/code-*"))
    assert len(plan["runs"]) == len(launches) and plan["parallel"] == 2
