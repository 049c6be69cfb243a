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


def wait_for(place: Place, name: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 400
    while (found := shown(place, name))["state"] not in states:
        assert time.monotonic() < deadline, (found, place.run("logs", name).stdout)
        time.sleep(3)
    return found


def test_submit_status_logs_to_the_end(place: Place, small_store: Path) -> None:
    done = place.run("submit", str(place.spec(small_job(small_store, "submitted"))))
    assert done.returncode == 0, done.stderr
    assert "wavetrain status submitted" in done.stdout
    found = wait_for(place, "submitted", "FINISHED", "FAILED", "KILLED")
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
    assert wait_for(place, "by-ray", "KILLED", "FAILED", "FINISHED")["state"] == "KILLED"
    last = place.events("by-ray")[-1]["step"]
    assert place.events("by-ray", "checkpoint")[-1]["step"] == last
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
