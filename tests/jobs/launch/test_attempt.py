"""The controller of a submitted run."""

import importlib.util
import io
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from channels.files import write_json
from channels.store import ChannelStore
from jobs.cli.train import train
from jobs.launch import attempt
from jobs.launch.attempt import main, main_after_word
from jobs.launch.attempt_word import AFTER_WORD, WORD
from jobs.launch.folder import LaunchFolder
from orchestrator.control.prepared import RunOutcome
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.notify import NotifySection
from tests.jobs.launches import slurm_profile
from tests.jobs_for_tests import small_job


@pytest.mark.parametrize(("status", "code", "says"), [("FINISHED", 0, "has finished the run"), ("FAILED", 2, "exists")])
def test_an_attempt_at_a_finished_run_is_a_success(
    tmp_path: Path, small_store: Path, capsys: pytest.CaptureFixture[str], status: str, code: int, says: str
) -> None:
    job = small_job(small_store, "run")
    other = job.model_copy(update={"seed": job.seed + 1}) if status == "FAILED" else job
    directory = RunDirectory(tmp_path / "run")
    LaunchFolder(directory).write(job, Profile.model_validate({"storage": {"runs": str(tmp_path)}}))
    write_json(directory.spec, other.model_dump(mode="json"))
    directory.update_state(status=status, store_fingerprint=ChannelStore.open(small_store).fingerprint)
    before = sorted(tmp_path.rglob("*"))
    assert main(str(directory.path), "127.0.0.1:1") == code
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


class Ended:
    """Stands for ``run_job``: a run that ends at once."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def __call__(self, *arguments: Any, on_start: Callable[[], None] | None = None, **options: Any) -> RunOutcome:
        if on_start is not None:
            on_start()
        return RunOutcome("FAILED", self.directory, "", cause="no room")


def noticing(folder: Path, launcher: str) -> Profile:
    profile = slurm_profile(folder) if launcher == "slurm" else Profile()
    return profile.model_copy(
        update={
            "storage": profile.storage.model_copy(update={"runs": folder}),
            "notify": NotifySection(command=f'echo "$WAVETRAIN_EVENT $WAVETRAIN_CAUSE" > {folder}/said'),
        }
    )


@pytest.mark.parametrize(("launcher", "sends"), [("local", True), ("slurm", False)])
def test_a_submitted_run_sends_its_notice_and_under_slurm_leaves_that_to_the_node(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, sends: bool
) -> None:
    directory = RunDirectory(tmp_path / "run")
    LaunchFolder(directory).write(small_job(small_store, "run"), noticing(tmp_path, launcher))
    monkeypatch.setattr(attempt, "run_job", Ended(directory))
    assert main(str(directory.path), "127.0.0.1:1") == 1
    assert (tmp_path / "said").exists() is sends


def test_train_sends_a_notice_of_its_end(tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, profile = RunDirectory(tmp_path / "run"), noticing(tmp_path, "local")
    write_json(tmp_path / "job.yaml", small_job(small_store, "run").model_dump(mode="json"))
    write_json(tmp_path / "cluster.yaml", {"default": "here", "profiles": {"here": profile.model_dump(mode="json")}})
    monkeypatch.setattr("jobs.cli.train.session_ahead", lambda profile: nullcontext())
    monkeypatch.setattr("orchestrator.control.controller.run_job", Ended(directory))
    with pytest.raises(typer.Exit) as ended:
        train(tmp_path / "job.yaml", cluster_file=tmp_path / "cluster.yaml")
    assert ended.value.exit_code == 1
    assert (tmp_path / "said").read_text() == "failed no room\n"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [((), b"", 7), ((AFTER_WORD,), WORD, 7), ((AFTER_WORD,), b"", 128 + signal.SIGTERM)],
)
def test_an_attempt_that_is_started_ahead_begins_when_the_word_comes(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: bytes, code: int
) -> None:
    began: list[str] = []
    assert all(importlib.util.find_spec(module) for module in attempt.NEEDED)
    monkeypatch.setattr(attempt, "NEEDED", ())
    monkeypatch.setattr(attempt, "main", lambda run, address: began.append(run) or 7)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(said)))
    assert main_after_word("run", "127.0.0.1:1", *arguments) == code
    assert began == (["run"] if code == 7 else [])
