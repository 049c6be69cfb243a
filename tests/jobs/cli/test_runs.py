"""``status``, ``logs`` and ``cancel`` over files of runs, without a launcher."""

import json
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.cli import runs as runs_commands
from jobs.cli import submit as submit_command
from jobs.cli.launchers import make_query
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import JobState
from jobs.launch.run_list import find_run
from jobs.launch.run_status import RunStatus, run_status
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory, run_lock
from orchestrator.spec.cluster import run_folders
from tests.jobs.cli.conftest import Command
from tests.jobs.launches import job_of

METRICS = {"train/loss": 0.5, "perf/tokens_per_s": 1000.0, "perf/step_ms": 200.0}


def a_run(runs: Path, name: str = "demo", status: str = "RUNNING", job: str | None = None) -> RunDirectory:
    directory = RunDirectory(runs / name)
    directory.path.mkdir(parents=True)
    write_json(directory.spec, job_of().model_dump(mode="json"))
    directory.update_state(status=status, cause="a reason" if status == "FAILED" else None, attempts=2)
    with EventWriter(directory.events) as events:
        events.write("attempt", step=0, total_steps=60)
        events.write("step", step=10, metrics=METRICS)
    if job:
        directory.launch.mkdir()
        record = {"launcher": "slurm", "job_id": job, "logs": str(directory.launch / "slurm")}
        write_json(LaunchFolder(directory).submission, record)
    return directory


def seen(directory: RunDirectory, state: JobState | None = None) -> RunStatus:
    return run_status(directory, lambda submission: state)


def test_a_running_job_tells_step_speed_and_time_left(tmp_path: Path) -> None:
    found = seen(a_run(tmp_path, job="12"), JobState("RUNNING", None, "n[1-2]"))
    assert (found.state, found.attempt, found.step, found.total_steps) == ("RUNNING", 2, 10, 60)
    assert (found.loss, found.tokens_per_s, found.seconds_left) == (0.5, 1000.0, pytest.approx(10.0))
    assert (found.launcher, found.job, found.nodes) == ("slurm", "12", "n[1-2]")


def test_runs_of_all_profiles_are_known(tmp_path: Path) -> None:
    profiles = {name: {"storage": {"runs": str(tmp_path / name)}} for name in ("here", "there")}
    (tmp_path / "cluster.yaml").write_text(json.dumps({"default": "there", "profiles": profiles}))
    mine, other = a_run(tmp_path / "here", "mine"), a_run(tmp_path / "there", "other")
    everywhere, here = (run_folders(tmp_path / "cluster.yaml", name) for name in (None, "here"))
    assert everywhere == [tmp_path / "there", tmp_path / "here"] and here == [tmp_path / "here"]
    assert find_run("mine", everywhere).path == mine.path and find_run("oth", everywhere).path == other.path
    with pytest.raises(UserError, match="no run 'other'"):
        find_run("other", here)
    a_run(tmp_path / "here", "other")
    with pytest.raises(UserError, match="several runs are called 'other'"):
        find_run("other", everywhere)


def test_a_run_that_no_launcher_tells_of_shows_the_machines_of_its_attempt(tmp_path: Path) -> None:
    directory = a_run(tmp_path, status="FINISHED")
    assert seen(directory).nodes is None
    with EventWriter(directory.events) as events:
        events.write("attempt", step=10, total_steps=60, machines=["n1", "n2"])
    assert seen(directory).nodes == "n1,n2"


def test_a_requeued_job_is_pending_with_its_reason(tmp_path: Path) -> None:
    found = seen(a_run(tmp_path, status="KILLED", job="12"), JobState("PENDING", "BeginTime"))
    assert (found.state, found.reason, found.seconds_left) == ("PENDING", "BeginTime", None)


def test_a_job_that_slurm_ended_is_not_running(tmp_path: Path) -> None:
    found = seen(a_run(tmp_path, job="12"), JobState("KILLED", "CANCELLED"))
    assert (found.state, found.reason) == ("KILLED", "CANCELLED")


def test_a_bootstrap_failure_tells_its_cause(tmp_path: Path) -> None:
    directory = a_run(tmp_path, job="12")
    end = directory.launch / "attempts" / "12-0" / "end.json"
    end.parent.mkdir(parents=True)
    write_json(end, {"outcome": "failed", "cause": "nodes n2 have not joined"})
    found = seen(directory, JobState("FAILED", "exit 1:0"))
    assert (found.state, found.reason) == ("FAILED", "nodes n2 have not joined")


def test_what_an_earlier_attempt_said_is_not_the_reason(tmp_path: Path) -> None:
    directory = a_run(tmp_path, job="12")
    for attempt in ("9-3", "12-9", "12-10"):
        (directory.launch / "attempts" / attempt).mkdir(parents=True)
    write_json(directory.launch / "attempts" / "9-3" / "end.json", {"outcome": "failed", "cause": "older job"})
    write_json(directory.launch / "attempts" / "12-9" / "end.json", {"outcome": "lost", "cause": "older attempt"})
    assert seen(directory, JobState("FAILED", "NODE_FAIL")).reason == "NODE_FAIL"
    write_json(directory.launch / "attempts" / "12-10" / "end.json", {"outcome": "lost", "cause": "newest"})
    assert seen(directory, JobState("FAILED", "NODE_FAIL")).reason == "newest"
    resubmitted = {**LaunchFolder(directory).read_submission(), "job_id": "40"}
    write_json(LaunchFolder(directory).submission, resubmitted)
    assert seen(directory, JobState("KILLED", "CANCELLED")).reason == "CANCELLED"


@pytest.mark.parametrize(("own", "reason"), [("FINISHED", None), ("FAILED", "a reason")])
def test_the_run_knows_best_how_it_ended(tmp_path: Path, own: str, reason: str | None) -> None:
    found = seen(a_run(tmp_path, status=own, job="12"), JobState("FAILED", "exit 1:0"))
    assert (found.state, found.reason) == (own, reason)


def test_a_local_run_without_controller_is_not_running(tmp_path: Path) -> None:
    directory = a_run(tmp_path)
    with run_lock(directory):
        assert seen(directory).state == "RUNNING"
    found = seen(directory)
    assert found.state == "KILLED" and "controller is gone" in str(found.reason)


def test_a_run_that_is_trained_after_its_job_has_ended_is_running(tmp_path: Path) -> None:
    directory = a_run(tmp_path, job="12")
    with run_lock(directory):
        found = seen(directory, JobState("KILLED", "CANCELLED"))
    assert (found.state, found.reason) == ("RUNNING", None)
    assert seen(directory, JobState("KILLED", "CANCELLED")).state == "KILLED"


def test_after_a_restart_the_newest_attempt_counts(tmp_path: Path) -> None:
    directory = a_run(tmp_path, status="FINISHED")
    long = {f"perf/{number}": 0.5 for number in range(100)}
    with EventWriter(directory.events) as events:
        for step in range(11, 300):
            events.write("step", step=step, metrics=METRICS | long)
        events.write("attempt", step=290, total_steps=300, machines=["n7"])
        found = seen(directory)
        assert (found.step, found.total_steps, found.nodes, found.loss) == (290, 300, "n7", None)
        for step in range(291, 1200):
            events.write("step", step=step, metrics=METRICS | long)
    found = seen(directory)
    assert directory.events.stat().st_size > 1 << 20
    assert (found.step, found.total_steps, found.nodes, found.loss) == (1199, 300, "n7", 0.5)


def test_an_attempt_that_lost_no_step_still_shows_its_loss(tmp_path: Path) -> None:
    directory = a_run(tmp_path, status="FINISHED")
    with EventWriter(directory.events) as events:
        events.write("attempt", step=10, total_steps=60, machines=["n1"])
    assert (seen(directory).step, seen(directory).loss) == (10, 0.5)


def test_many_samples_of_the_machines_do_not_hide_the_last_step(tmp_path: Path) -> None:
    directory = a_run(tmp_path)
    with EventWriter(directory.events) as events:
        for _ in range(2000):
            events.write("system", step=10, metrics={f"system/n{node}/cpu": 0.5 for node in range(40)})
    found = seen(directory)
    assert directory.events.stat().st_size > 1 << 20
    assert (found.step, found.total_steps, found.loss) == (10, 60, 0.5)


def test_a_torn_line_of_events_is_passed_over(tmp_path: Path) -> None:
    directory = a_run(tmp_path, status="FINISHED")
    with directory.events.open("a") as file:
        file.write('{"kind":"step","st')
    assert seen(directory).step == 10


@pytest.fixture
def wavetrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wavetrain: Command) -> Command:
    """Runs the command line in a folder with runs; exit code, output, error."""
    monkeypatch.chdir(tmp_path)

    return wavetrain


def test_a_beginning_that_fits_several_runs_is_refused(tmp_path: Path, wavetrain: Any) -> None:
    a_run(tmp_path / "runs", "demo-1", "FINISHED")
    a_run(tmp_path / "runs", "demo-2", "FINISHED")
    code, _, error = wavetrain("status", "demo")
    assert code == 2 and error.count("\n") == 1 and "demo-1, demo-2" in error
    assert wavetrain("status", "demo-2", "--json")[0] == 0
    assert "demo-2" in wavetrain("status")[1]
    code, _, error = wavetrain("logs", "nothing")
    assert code == 2 and "known runs: " in error


def test_a_launcher_that_does_not_answer_is_told_and_the_other_runs_are_shown(
    tmp_path: Path, wavetrain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        a_run(tmp_path / "runs", f"queued-{number}", job="12")
    a_run(tmp_path / "runs", "local", "FINISHED")
    asked: list[str] = []

    def silent(job_id: str) -> JobState:
        asked.append(job_id)
        raise UserError("squeue does not answer in 30 s", where="slurm", mend="ask again later")

    monkeypatch.setattr("jobs.cli.launchers.slurm_state.job_state", silent)
    code, out, _ = wavetrain("status", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0 and found["local"]["state"] == "FINISHED" and len(asked) == 1
    assert found["queued-1"]["state"] == "UNKNOWN" and "does not answer" in found["queued-1"]["reason"]


def test_logs_of_a_node(tmp_path: Path, wavetrain: Any) -> None:
    directory = a_run(tmp_path / "runs", "demo", "FINISHED", job="12")
    folder = LaunchFolder(directory).submitted
    folder.mkdir()
    for node in (0, 1):
        (folder / f"12_{node}_log.err").write_text("".join(f"node {node} line {line}\n" for line in range(5)))
    assert wavetrain("logs", "demo", "--node", "1", "-n", "2")[1] == "node 1 line 3\nnode 1 line 4\n"
    assert "node 0 line 0" in wavetrain("logs", "demo")[1]


def test_output_of_a_rank(tmp_path: Path, wavetrain: Any) -> None:
    directory = a_run(tmp_path / "runs", "demo", "FINISHED")
    assert "no rank has begun to train yet" in wavetrain("logs", "demo", "--rank", "0")[2]
    for attempt in (1, 2):
        for rank in (0, 37):
            path = directory.attempts / str(attempt) / f"rank-{rank}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"attempt {attempt}\nrank {rank}\n")
    assert wavetrain("logs", "demo", "--rank", "37")[1] == "attempt 2\nrank 37\n"
    assert wavetrain("logs", "demo", "--rank", "37", "--attempt", "1", "-n", "1")[1] == "rank 37\n"
    assert wavetrain("logs", "demo", "--rank", "37", "--attempt", "1")[1] == "attempt 1\nrank 37\n"
    assert "has no rank 5; there are 0 to 37" in wavetrain("logs", "demo", "--rank", "5")[2]
    assert "no attempt 3" in wavetrain("logs", "demo", "--rank", "0", "--attempt", "3")[2]
    assert "add --rank R" in wavetrain("logs", "demo", "--attempt", "1")[2]


def test_following_the_logs_of_two_nodes_to_the_last_line(
    tmp_path: Path, wavetrain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = a_run(tmp_path / "runs", "demo", "RUNNING", job="12")
    folder = LaunchFolder(directory).submitted
    folder.mkdir()
    files = [folder / f"12_{node}_log.out" for node in (0, 1)]
    for node, path in enumerate(files):
        path.write_text(f"node {node} begins\n")
    said = iter([("RUNNING", "one"), ("FAILED", "two")])

    def answer(submission: dict[str, Any]) -> JobState:
        state, word = next(said)
        for node, path in enumerate(files):
            path.write_text(f"{path.read_text()}node {node} {word}\n")
        return JobState("RUNNING" if state == "RUNNING" else "FAILED")

    monkeypatch.setattr(runs_commands, "query_launcher", answer)
    monkeypatch.setattr(runs_commands, "FOLLOW_S", 0.0)
    code, out, _ = wavetrain("logs", "demo", "--follow")
    assert code == 0
    assert out.splitlines() == [f"node {node} {word}" for word in ("begins", "one", "two") for node in (0, 1)]


def test_cancelling_what_has_ended_and_what_never_listens(
    tmp_path: Path, wavetrain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path / "runs", "done", "FINISHED")
    assert "has ended (FINISHED)" in wavetrain("cancel", "done")[2]
    a_run(tmp_path / "runs", "deaf", "RUNNING", job="12")
    commands: list[list[str]] = []
    monkeypatch.setattr(runs_commands, "query_launcher", lambda submission: JobState("RUNNING"))
    monkeypatch.setattr(runs_commands.slurm_state, "run_command", commands.append)
    code, out, _ = wavetrain("cancel", "deaf", "--wait", "1")
    assert code == 0 and "after a checkpoint" not in out
    assert commands == [["scancel", "12"]]
    assert (tmp_path / "runs" / "deaf" / "stop.request").exists()


def test_cancelling_a_resumed_run_before_its_controller_has_begun(
    tmp_path: Path, wavetrain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = a_run(tmp_path / "runs", "resumed", "KILLED")
    directory.launch.mkdir()
    write_json(LaunchFolder(directory).submission, {"launcher": "ray", "job_id": "ray-2", "dashboard": "http://x"})
    monkeypatch.setattr(runs_commands, "query_launcher", lambda submission: JobState("RUNNING"))
    stopped: list[LaunchFolder] = []
    monkeypatch.setattr(runs_commands.ray_jobs, "stop", stopped.append)
    code, out, _ = wavetrain("cancel", "resumed")
    assert code == 0 and "after a checkpoint" not in out
    assert [launch.run.path.absolute() for launch in stopped] == [directory.path]


def test_a_run_that_was_not_submitted_has_no_logs(tmp_path: Path, wavetrain: Any) -> None:
    a_run(tmp_path / "runs", "local", "FINISHED")
    assert "printed to its terminal" in wavetrain("logs", "local")[2]


def test_a_run_that_is_queued_is_not_submitted_again(tmp_path: Path) -> None:
    directory = a_run(tmp_path, job="12")
    with pytest.raises(UserError, match="job 12 is PENDING"):
        submit_command._check_idle(directory, lambda submission: JobState("PENDING", "Resources"))
    assert json.loads(directory.state.read_text())["status"] == "RUNNING"


def test_a_run_that_is_trained_here_is_not_submitted(tmp_path: Path) -> None:
    directory = a_run(tmp_path)
    with run_lock(directory):
        with pytest.raises(UserError, match="another controller"):
            submit_command._check_idle(directory, make_query())
        assert not submit_command._is_wanted(directory, make_query())
    submit_command._check_idle(directory, make_query())
    for path in (directory, RunDirectory(tmp_path / "new")):
        assert submit_command._is_wanted(path, make_query())


@pytest.mark.parametrize(
    ("own", "job", "wanted"),
    [
        ("FAILED", "FAILED", True),
        ("KILLED", "KILLED", True),
        ("RUNNING", "KILLED", True),
        ("RUNNING", "RUNNING", False),
        ("KILLED", "PENDING", False),
        ("FINISHED", "FINISHED", False),
        ("KILLED", "UNKNOWN", False),
    ],
)
def test_children_of_a_sweep_that_are_submitted_again(tmp_path: Path, own: str, job: Any, wanted: bool) -> None:
    directory = a_run(tmp_path, status=own, job="12")
    assert submit_command._is_wanted(directory, lambda submission: JobState(job)) is wanted


@pytest.mark.parametrize("command", ["evaluate", "report", "sync", "logs", "cancel"])
@pytest.mark.parametrize("name", ["trained-in-march", "trained", "FOLDER"])
def test_every_command_finds_the_same_runs(command: str, name: str, tmp_path: Path, wavetrain: Any) -> None:
    """By name, beginning of a name or folder, under whichever profile: the error is about the run, not its name."""
    profiles = {profile: {"storage": {"runs": str(tmp_path / profile)}} for profile in ("here", "there")}
    (tmp_path / "cluster.yaml").write_text(json.dumps({"default": "here", "profiles": profiles}))
    directory = a_run(tmp_path / "there", "trained-in-march", "FINISHED")
    a_run(tmp_path / "here", "another", "FINISHED")
    directory.events.unlink()
    given = str(directory.path) if name == "FOLDER" else name
    code, _, error = wavetrain(command, given)
    assert code == 2 or command == "report", error
    assert "no run" not in error and "Traceback" not in error
