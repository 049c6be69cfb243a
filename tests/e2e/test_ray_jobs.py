"""Runs as jobs of a standing Ray cluster with token authentication."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.ray_cluster import RayCluster, ray_cluster
from tests.e2e.runs import ROOT, Place
from tests.jobs_for_tests import small_job

ENDED = ("FINISHED", "FAILED", "KILLED")
pytestmark = [pytest.mark.e2e, pytest.mark.launching, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cluster: RayCluster) -> Path:
    folder = tmp_path_factory.mktemp("ray-jobs")
    profile = {"launcher": "ray", "ray_address": cluster.address, "ray_dashboard": cluster.dashboard,
               "storage": {"runs": str(folder / "runs")}}  # fmt: skip
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"default": "ray", "profiles": {"ray": profile}}))
    return folder


@pytest.fixture
def place(folder: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return Place(folder)


def shown(place: Place, name: str) -> dict[str, Any]:
    done = place.run("status", name, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[0])


def wait_for_end(place: Place, name: str) -> dict[str, Any]:
    """The run's status once its controller has written how it ended, and Ray knows that its job has."""
    deadline = time.monotonic() + 400
    while not ((path := place.directory(name) / "state.json").exists() and place.state(name)["status"] in ENDED):
        assert time.monotonic() < deadline, (path.exists(), place.run("logs", name).stdout)
        time.sleep(0.5)
    while (found := shown(place, name))["state"] not in ENDED:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_submit_status_logs_to_the_end(place: Place, small_store: Path) -> None:
    job = small_job(small_store, "submitted", train={"epochs": 1}, data={"zeroshot_sets": ["H1"]})
    done = place.run("submit", str(place.spec(job)), "--watch", timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert "wavetrain status submitted" in done.stdout and "FINISHED" in done.stderr, (done.stdout, done.stderr)
    found = shown(place, "submitted")
    assert found["state"] == "FINISHED", place.run("logs", "submitted").stdout
    assert found["launcher"] == "ray" and found["step"] == found["total_steps"]
    assert "zero-shot results of submitted" in place.run("logs", "submitted").stdout
    tracked = place.tracked("submitted")
    assert tracked.info.status == "FINISHED" and tracked.data.tags["launcher"] == "ray"


def test_rays_own_submitter_and_cancel_after_a_checkpoint(
    place: Place, small_store: Path, cluster: RayCluster, tmp_path: Path
) -> None:
    job = small_job(small_store, "by-ray", train={"epochs": 200, "lr": 1e-3, "warmup_epochs": 0.5})
    spec = place.spec(job)
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--no-wait", "--address",
               cluster.dashboard, "--working-dir", str(place.folder), "--runtime-env-json",
               json.dumps({"excludes": ["runs"], "env_vars": {"PYTHONPATH": str(ROOT)}}), "--",
               sys.executable, "-m", "jobs.run", spec.name]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, cwd=tmp_path)
    assert done.returncode == 0, (done.stdout, done.stderr)
    deadline = time.monotonic() + 300
    while not any(event["step"] >= 5 for event in place.events("by-ray")):
        assert time.monotonic() < deadline, "no step is reached"
        time.sleep(0.5)
    found = shown(place, "by-ray")
    assert (found["launcher"], found["state"]) == ("ray", "RUNNING") and found["job"].startswith("raysubmit_")
    cancelled = place.run("cancel", "by-ray")
    assert cancelled.returncode == 0 and "after a checkpoint" in cancelled.stdout, (cancelled.stdout, cancelled.stderr)
    assert wait_for_end(place, "by-ray")["state"] == "KILLED"
    last = place.events("by-ray")[-1]["step"]
    assert place.events("by-ray", "checkpoint")[-1]["step"] == last
    assert place.tracked("by-ray").data.tags["ray.submission_id"] == found["job"]
    assert place.run("cancel", "by-ray").returncode == 2


def test_a_wrong_token_is_one_line(
    place: Place, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    done = place.run("submit", str(place.spec(small_job(small_store, "refused"))))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert not place.directory("refused").exists()


def test_a_job_server_that_does_not_answer_is_one_line(place: Place, small_store: Path) -> None:
    text = (place.folder / "cluster.yaml").read_text()
    cluster = yaml.safe_load(text)
    cluster["profiles"]["ray"]["ray_dashboard"] = "http://127.0.0.1:9"
    (place.folder / "silent-cluster.yaml").write_text(yaml.safe_dump(cluster))
    spec = place.spec(small_job(small_store, "nobody"))
    done = place.run("submit", str(spec), "--cluster-file", str(place.folder / "silent-cluster.yaml"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "http://127.0.0.1:9" in done.stderr and not place.directory("nobody").exists()


def test_a_sweep_runs_one_child_at_a_time_and_the_login_is_free(place: Place, small_store: Path) -> None:
    job = small_job(small_store, "swept", train={"epochs": 1, "lr": 1e-3}, scale={"workers": 1},
                    data={"zeroshot_sets": []})  # fmt: skip
    arguments = ("submit", str(place.spec(job)), "--sweep", "batching.buckets=1,2", "--parallel", "1")
    done = place.run(*arguments)
    assert done.returncode == 0, done.stderr
    names = ["swept.buckets-1", "swept.buckets-2"]
    waiting = shown(place, names[1])
    assert waiting["state"] == "PENDING" and "waits for its turn" in waiting["reason"]
    assert "0 to submit" in place.run(*arguments).stdout, "what is on its way is not submitted again"
    for name in names:
        assert wait_for_end(place, name)["state"] == "FINISHED", place.run("logs", name).stdout
    times = [
        [event["time"] for kind in ("attempt", "step", "end") for event in place.events(name, kind)] for name in names
    ]
    assert max(times[0]) < min(times[1]), "both CPUs of the cluster would have been free for the second"
    parent = place.state("swept.sweep")["mlflow_run_id"]
    assert {place.tracked(name).data.tags["mlflow.parentRunId"] for name in names} == {parent}
