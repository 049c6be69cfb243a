"""``wavetrain train`` inside a job that Ray's own tools submitted: what is recorded, and when."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.files import write_json
from channels.store import ChannelStore
from jobs.cli.main import main
from jobs.cli.options import profile_options
from jobs.launch.folder import LaunchFolder
from jobs.ray_cluster.inside_job import INSIDE, adapt, enter, record_own_job
from orchestrator.run.folder import RunDirectory, run_lock
from orchestrator.spec.cluster import Profile, load_profile
from tests.jobs_for_tests import small_job

SLURM_JOB = {"launcher": "slurm", "job_id": "12", "logs": "logs"}


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(INSIDE, json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))


@pytest.fixture
def run(tmp_path: Path, small_store: Path) -> RunDirectory:
    """A run that was submitted to Slurm, and a profile whose folder holds it."""
    directory = RunDirectory(tmp_path / "runs" / "small")
    directory.launch.mkdir(parents=True)
    job = small_job(small_store).model_dump(mode="json")
    write_json(directory.spec, job)
    write_json(LaunchFolder(directory).submission, SLURM_JOB)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    profile = {"storage": {"runs": str(tmp_path / "runs")}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": {"here": profile}}))
    return directory


def refused_train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("jobs.cli.train.check_answers", lambda address: None)
    monkeypatch.setattr(sys, "argv", ["wavetrain", "train", "job.yaml", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("inside")
def test_a_finished_run_keeps_its_job(run: RunDirectory, tmp_path: Path, small_store: Path, monkeypatch: Any,
                                      capsys: Any) -> None:  # fmt: skip
    run.update_state(status="FINISHED", store_fingerprint=ChannelStore.open(small_store).fingerprint)
    assert "is finished" in refused_train(tmp_path, monkeypatch, capsys)
    assert LaunchFolder(run).read_submission() == SLURM_JOB


@pytest.mark.usefixtures("inside")
def test_a_run_that_another_controller_works_on_keeps_its_job(run: RunDirectory, tmp_path: Path, small_store: Path,
                                                              monkeypatch: Any, capsys: Any) -> None:  # fmt: skip
    run.update_state(status="RUNNING", store_fingerprint=ChannelStore.open(small_store).fingerprint)
    with run_lock(run):
        assert "another controller" in refused_train(tmp_path, monkeypatch, capsys)
    assert LaunchFolder(run).read_submission() == SLURM_JOB


@pytest.mark.usefixtures("inside")
def test_what_has_the_run_is_recorded(run: RunDirectory) -> None:
    profile = adapt(Profile.model_validate({"storage": {"runs": str(run.path.parent)}}))
    assert (profile.launcher, profile.ray_address) == ("ray", "auto")
    record_own_job(run, profile)
    assert LaunchFolder(run).read_submission()["job_id"] == "raysubmit_1"


def test_elsewhere_nothing_is_recorded(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSIDE, raising=False)
    profile = Profile()
    assert adapt(profile) is profile
    record_own_job(run, profile)
    assert LaunchFolder(run).read_submission() == SLURM_JOB


@pytest.mark.usefixtures("inside")
def test_relative_paths_start_at_the_root(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's folder is a copy of spec and profile; the channels lie in the folder that it was submitted from."""
    copy = tmp_path / "copy"
    copy.mkdir()
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    job["data"]["store"] = "data/small"
    (copy / "job.yaml").write_text(yaml.safe_dump(job))
    profile = {"storage": {"runs": "runs"}}
    (copy / "cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": {"here": profile}}))
    line = refused_train(copy, monkeypatch, capsys)
    assert line.startswith("wavetrain: data.store: data/small is relative") and "--root" in line
    line = refused_train(copy, monkeypatch, capsys, "--root", str(tmp_path))
    assert str(tmp_path / "data" / "small") in line and "copy" not in line
    spec, cluster_file = enter(tmp_path, copy / "job.yaml", copy / "cluster.yaml")
    assert adapt(load_profile(cluster_file, None), rooted=True).storage.runs == tmp_path / "runs"
    assert spec == copy / "job.yaml"
    assert "no such folder" in refused_train(copy, monkeypatch, capsys, "--root", str(tmp_path / "absent"))


def test_what_is_shown_names_the_profile() -> None:
    assert profile_options(None, None) == ""
    assert profile_options("ray", Path("my clusters.yaml")) == " --cluster ray --cluster-file 'my clusters.yaml'"
