"""A whole run under its controller, without Ray: its end is written down whatever happens, before MLflow is asked."""

import getpass
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2.api.exceptions import WorkerGroupError

from channels.errors import UserError
from jobs.cli.sync import complete
from jobs.launch.outcome import print_outcome
from orchestrator.control import announce, controller, provenance
from orchestrator.control.announce import write_run
from orchestrator.control.controller import Controller
from orchestrator.control.ending import NOT_YET
from orchestrator.control.prepare import prepare
from orchestrator.control.ray_train import trainer
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking import delivery as deliveries
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.run_tracking import OFFLINE, RunTracking, open_tracking
from tests.jobs_for_tests import small_job
from tests.orchestrator.control.controlled_run import Run, attempt, finished
from tests.orchestrator.control.stand_ins import ScriptedGroup, end_attempt, fail_attempt


def test_a_run_that_finishes(run: Run, script: Callable[..., None]) -> None:
    script(attempt, finished)
    outcome = run.start()
    assert (outcome.status, outcome.cause, outcome.scores) == ("FINISHED", None, [])
    assert (run.state["status"], run.state["attempts"], run.state["tracking_problem"]) == ("FINISHED", 1, None)
    assert run.state["mlflow_run_id"] == "run"
    assert run.tracker.status == "FINISHED"
    assert run.tracker.tagged["attempt"] == "1" and run.tracker.tagged["wavetrain.cause"] == "none"
    assert run.tracker.tagged[announce.NOTE].startswith("**Result.** FINISHED")


def test_a_run_that_mlflow_refused_at_its_start_is_refused_again(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the refused start does not make it a run that is under way."""

    def refuse() -> None:
        raise UserError("MLflow is away")

    with monkeypatch.context() as away:
        away.setattr(run.delivery, "connect", refuse)
        for _ in range(2):
            script(attempt, finished)
            with pytest.raises(UserError, match="MLflow is away"):
                run.again()
            assert run.state["status"] == "FAILED" and not run.directory.events.exists()
    script(attempt, finished)
    assert run.again().status == "FINISHED"


def test_an_offline_run_is_started_without_mlflow_and_says_so_once(
    run: Run, script: Callable[..., None], tmp_path: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:9"
    tracking = {"offline": True, "uri": nobody}
    job = small_job(small_store, "far", data={"zeroshot_sets": []}, tracking=tracking)
    prepared = prepare(job, run.prepared.profile)
    directory = prepared.directory
    directory.path.mkdir()
    write_run(prepared)
    group = ScriptedGroup([attempt(directory), finished(directory)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "make_worker_group", lambda job, profile, directory: group)
        patch.setattr(deliveries, "Tracker", lambda *arguments: pytest.fail("MLflow is asked"))
        kept = open_tracking(directory, nobody, job, tmp_path, run.view.say)
        outcome = Controller(prepared, kept, run.view, run.stop).run()
    assert (
        outcome.status == "FINISHED"
        and run.said.count("tracking is offline") == run.said.count("wavetrain sync far") == 1
    )
    assert directory.read_state()["tracking_problem"] == OFFLINE
    assert print_outcome(outcome) == 0
    assert "bring it to MLflow:          wavetrain sync far" in capsys.readouterr().out
    kinds = [entry["kind"] for entry in read_events(directory.tracking)[0]]
    assert kinds[0] == "parameters" and kinds[-4:] == ["model", "metrics", "tags", "end"]


def test_a_run_that_is_stopped(run: Run, script: Callable[..., None]) -> None:
    def stop(directory: RunDirectory) -> Callable[[], object]:
        return lambda: run.stop(15, None)

    script(attempt, stop, lambda directory: end_attempt(directory, "stopped"))
    outcome = run.start()
    assert (outcome.status, outcome.signal) == ("KILLED", 15)
    assert (run.state["status"], run.tracker.status) == ("KILLED", "KILLED")
    assert not run.directory.stop_request.exists()


def test_a_run_that_is_stopped_while_ray_comes_up_starts_no_ranks(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def slow_session(job: object, profile: object, *more: object) -> Iterator[None]:
        run.stop(15, None)
        yield

    monkeypatch.setattr(controller, "ray_session", slow_session)
    script(attempt, finished)
    outcome = run.start()
    assert (outcome.status, print_outcome(outcome)) == ("KILLED", 143)
    assert (run.state["status"], run.tracker.status) == ("KILLED", "KILLED") and not run.directory.events.exists()
    monkeypatch.setattr(controller, "ray_session", lambda job, profile, *more: nullcontext())
    run.stop.signal = None
    assert run.again().status == "FINISHED", "the same command resumes it"


def test_a_run_whose_ranks_fail_for_good(run: Run, script: Callable[..., None]) -> None:
    script(
        attempt, lambda directory: fail_attempt(directory, 1, "gone"),
        attempt, lambda directory: fail_attempt(directory, 0, "gone", retry=False),
        error=UserError("a shard is missing"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"a shard is missing; all of them: \(1\) worker of rank 1 on n2: gone; \(2\)"):
        run.start()
    assert (run.state["status"], len(run.state["failures"])) == ("FAILED", 2)
    assert run.state["cause"].startswith("a shard is missing; all of them")
    assert run.tracker.status == "FAILED" and "(2) worker" in run.tracker.tagged["wavetrain.failures"]


def test_what_ray_lists_of_all_ranks_is_not_the_cause_but_the_failure_that_explains_it(
    run: Run, script: Callable[..., None]
) -> None:
    loud = WorkerGroupError("[Rank 0] NCCL error: remote process exited", {0: RuntimeError("NCCL error")})
    script(attempt, lambda directory: fail_attempt(directory, 1, "CUDA error: uncorrectable ECC error", retry=False),
           error=loud)  # fmt: skip
    outcome = run.start()
    assert outcome.cause == "worker of rank 1 on n2: CUDA error: uncorrectable ECC error"
    assert run.state["cause"] == outcome.cause


def test_a_failure_that_another_attempt_made_good_is_not_the_cause_of_what_fails_later(
    run: Run, script: Callable[..., None]
) -> None:
    script(attempt, lambda directory: fail_attempt(directory, 1, "gone"), attempt,
           error=WorkerGroupError("the scoring was killed", {}))  # fmt: skip
    assert "the scoring was killed" in str(run.start().cause)


def test_a_second_signal_ends_the_run_at_once(run: Run, script: Callable[..., None]) -> None:
    script(attempt, error=KeyboardInterrupt())
    assert (run.start().cause, run.state["status"]) == ("interrupted", "KILLED")


def test_whatever_fails_after_the_start_ends_the_run_as_failed(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(provenance, "log_inputs", fail)
    with pytest.raises(KeyError, match="4711"):
        run.start()
    assert (run.state["status"], run.tracker.status) == ("FAILED", "FAILED")
    assert "4711" in run.state["cause"]


def test_a_broken_record_does_not_hide_why_a_run_ended(run: Run, script: Callable[..., None]) -> None:
    def tear(directory: RunDirectory) -> Callable[[], object]:
        return lambda: directory.failures.write_text('{"kind": "failure"}\n')

    script(attempt, tear)
    with pytest.raises(KeyError):
        run.start()
    assert (run.state["status"], run.tracker.status) == ("FAILED", "FAILED")


def test_a_user_without_a_passwd_entry_may_train(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    script(attempt, finished)
    assert run.start().status == "FINISHED"
    assert run.tracker.tagged["mlflow.user"].isdigit()


def test_the_state_is_written_before_mlflow_is_asked(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system that kills after its grace must not leave RUNNING behind."""
    seen: list[dict[str, Any]] = []
    end = RunTracking.end

    def slow_end(tracking: RunTracking, *arguments: Any) -> Any:
        seen.append(run.state)
        return end(tracking, *arguments)

    monkeypatch.setattr(RunTracking, "end", slow_end)
    script(attempt, error=RuntimeError("the ranks are gone"))
    with pytest.raises(RuntimeError):
        run.start()
    assert [(state["status"], state["tracking_problem"]) for state in seen] == [("FAILED", NOT_YET)]
    assert "the ranks are gone" in seen[0]["cause"]
    assert run.state["tracking_problem"] is None


def test_the_end_waits_for_sync_where_mlflow_does_not_take_it(run: Run, script: Callable[..., None]) -> None:
    def away(directory: RunDirectory) -> Callable[[], object]:
        def leave() -> None:
            run.answers = False

        return leave

    script(attempt, away, finished)
    assert run.start().status == "FINISHED"
    assert run.state["status"] == "FINISHED" and "MLflow is away" in run.state["tracking_problem"]
    assert "when it answers: wavetrain sync small" in run.said


@pytest.mark.parametrize("writes_left", [0, 1], ids=["no-room", "room-again"])
def test_a_state_that_cannot_be_written_is_no_success(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch, writes_left: int
) -> None:
    """The disk is full at the end; where there is room again when MLflow has answered, nothing is lost."""
    update = RunDirectory.update_state
    refused: list[object] = []

    def full(directory: RunDirectory, **fields: Any) -> dict[str, Any]:
        if fields.get("status") == "FINISHED" and len(refused) < 2 - writes_left:
            refused.append(fields)
            raise UserError("the disk is full")
        return update(directory, **fields)

    monkeypatch.setattr(RunDirectory, "update_state", full)
    script(attempt, finished)
    outcome = run.start()
    assert print_outcome(outcome) == (0 if writes_left else 1)
    assert run.state["status"] == ("FINISHED" if writes_left else "RUNNING") and "cannot be written" in run.said
    assert run.tracker.status == "FINISHED"
    complete(run.directory, run.delivery)
    assert run.state["status"] == run.tracker.status == "FINISHED", "sync believes the end that was kept"


def test_sync_does_not_believe_the_end_of_an_earlier_start(run: Run, script: Callable[..., None]) -> None:
    script(attempt, finished)
    run.start()
    outbox = Outbox(run.directory)
    outbox.parameters({"seed": 1})
    outbox.close()
    run.directory.update_state(status="RUNNING")
    complete(run.directory, run.delivery)
    assert (run.state["status"], run.tracker.status) == ("RUNNING", "KILLED")
