"""Events, run folders, small files, the live line and the learning rate."""

import errno
import fcntl
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.files import write_atomically
from channels.writer import open_writer
from orchestrator.run.events import EventWriter, read_events, repair
from orchestrator.run.file_lock import is_locked
from orchestrator.run.folder import RunDirectory, check_resumable, clear_left_writes, run_lock
from orchestrator.training.learning_rate import learning_rate
from tests.jobs_for_tests import small_job


def test_events_are_read_from_an_offset_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.write("step", step=1)
    first, offset = read_events(path)
    assert [event["step"] for event in first] == [1]
    with path.open("a") as file:
        file.write('{"kind":"step","st')
    assert read_events(path, offset) == ([], offset)
    repair(path)
    with EventWriter(path) as events:
        events.write("step", step=2)
    again, _ = read_events(path, offset)
    assert [event["step"] for event in again] == [2]


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "token", "secret", mode=0o600)
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_one_controller_at_a_time_has_the_lock_of_a_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    code = (
        "import sys; from pathlib import Path; from orchestrator.run.folder import *\n"
        "with run_lock(RunDirectory(Path(sys.argv[1]))): pass"
    )
    with run_lock(directory):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "another controller" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    directory = RunDirectory(tmp_path / "runs" / "new")
    directory.path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no file locks.*flock"), run_lock(directory):
        pass
    assert not directory.path.exists()
    directory.path.mkdir()
    directory.spec.write_text("{}")
    with pytest.raises(UserError, match="no file locks"), run_lock(directory):
        pass
    assert directory.spec.exists()
    with pytest.raises(UserError, match="no file locks"):
        is_locked(directory.lock)
    with pytest.raises(UserError, match="no file locks"), open_writer(tmp_path / "store"):
        pass


def test_resume_needs_the_same_job_and_the_same_channels(tmp_path: Path) -> None:
    directory, job = RunDirectory(tmp_path), small_job(Path("store"))
    assert not check_resumable(directory, job, "f")
    directory.spec.write_text(json.dumps(job.model_dump(mode="json")))
    directory.update_state(status="KILLED", store_fingerprint="f")
    assert check_resumable(directory, job, "f")
    assert check_resumable(directory, small_job(Path("elsewhere"), checkpoint={"every_steps": 1}), "f")
    with pytest.raises(UserError, match="other channels"):
        check_resumable(directory, job, "g")
    with pytest.raises(UserError, match=r"train\.lr"):
        check_resumable(directory, small_job(Path("store"), train={"lr": 5e-3}), "f")
    directory.update_state(status="FINISHED")
    with pytest.raises(UserError, match="finished"):
        check_resumable(directory, job, "f")


def test_what_a_killed_controller_left_does_not_bar_the_run_and_is_cleared(tmp_path: Path) -> None:
    directory, job = RunDirectory(tmp_path), small_job(Path("store"))
    (tmp_path / ".spec.json.77-78.tmp").write_text("{")
    assert not check_resumable(directory, job, "f")
    for folder in ("results", "checkpoints/step-1", "launch/attempts/1-0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ".a.json.7-8.tmp").write_text("")
    os.utime(tmp_path / "launch/attempts/1-0/.a.json.7-8.tmp", (0, 0))
    (tmp_path / "launch" / ".head.json.9-9.tmp").write_text("a node writes this")
    (tmp_path / "events.jsonl").write_text("")
    clear_left_writes(directory)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [Path("events.jsonl"), Path("launch/.head.json.9-9.tmp")]


def test_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    rate = {
        position: learning_rate(position, peak=2.0, floor=0.5, warmup=10, total=150) for position in (0, 5, 10, 80, 150)
    }
    assert rate[0] == 0 and rate[5] == 1.0 and rate[10] == 2.0
    assert rate[80] == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rate[150] == pytest.approx(0.5)
    assert learning_rate(0, peak=1.0, floor=0, warmup=0, total=1) == 1.0


def test_a_run_of_when_bf16_was_pure_goes_on_with_bf16_pure_and_with_nothing_else(tmp_path: Path) -> None:
    job = small_job(tmp_path / "data")
    mixed, pure = (
        job.model_copy(update={"train": job.train.model_copy(update={"precision": name})})
        for name in ("bf16", "bf16_pure")
    )
    directory = RunDirectory(tmp_path)
    written = mixed.model_dump(mode="json")
    del written["train"]["tf32"]
    directory.spec.write_text(json.dumps(written))
    assert check_resumable(directory, pure, "store")
    with pytest.raises(UserError, match=r"train\.precision: 'bf16_pure' -> 'bf16'"):
        check_resumable(directory, mixed, "store")
    directory.spec.write_text(json.dumps(mixed.model_dump(mode="json")))
    assert check_resumable(directory, mixed, "store")
