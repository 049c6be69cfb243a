"""Signals at the end of a run: how it ended is kept, in its folder, in MLflow and in the exit code."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from channels.errors import UserError
from jobs.launch.outcome import print_outcome
from orchestrator.control.controller import Controller
from orchestrator.control.supervision import Follower
from orchestrator.tracking import delivery as deliveries
from orchestrator.tracking.run_tracking import RunTracking
from tests.orchestrator.control.controlled_run import Run, attempt, finished
from tests.orchestrator.control.stand_ins import FakeTracker


@pytest.fixture(autouse=True)
def sigterm_as_before() -> Iterator[None]:
    """What a run leaves in place for the rest of its process does not stay for other tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def slurm_stops() -> None:
    """Slurm's SIGTERM reaches a controller twice: from Slurm, and from the node's own process."""
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)


def stopped_before(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Have the signals come just before a method is called, of which only the first call counts."""
    method = getattr(owner, name)

    def late(*arguments: Any, **fields: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        slurm_stops()
        return method(*arguments, **fields)

    monkeypatch.setattr(owner, name, late)


MOMENTS = [(Controller, "_end"), (Follower, "close"), (RunTracking, "end"), (FakeTracker, "end")]


@pytest.mark.parametrize("moment", [(RunTracking, "register_model"), *MOMENTS])
def test_signals_once_everything_is_trained_and_scored_come_too_late(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    job = run.prepared.job
    tracking = job.tracking.model_copy(update={"register_model": moment[1] == "register_model"})
    run.prepared = replace(run.prepared, job=job.model_copy(update={"tracking": tracking}))
    monkeypatch.setattr(RunTracking, "register_model", lambda *arguments: None)
    stopped_before(monkeypatch, *moment)
    script(attempt, finished)
    with run.stop.installed():
        outcome = run.start()
    assert (outcome.status, print_outcome(outcome), run.state["tracking_problem"]) == ("FINISHED", 0, None)
    assert run.state["status"] == "FINISHED" and run.tracker.status == "FINISHED"


@pytest.mark.parametrize("moment", [(Controller, "_outcome"), *MOMENTS])
def test_signals_at_the_end_of_a_stopped_run_do_not_lose_it(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    stopped_before(monkeypatch, *moment)
    script(attempt, error=KeyboardInterrupt())
    with run.stop.installed():
        assert run.start().status == "KILLED"
    assert (run.state["status"], run.state["tracking_problem"], run.tracker.status) == ("KILLED", None, "KILLED")


@pytest.mark.parametrize("moment", [(Follower, "all_causes"), (Controller, "_outcome"), *MOMENTS])
def test_signals_at_the_end_of_a_failed_run_do_not_lose_it(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    stopped_before(monkeypatch, *moment)
    script(attempt, error=UserError("a shard is missing"))
    with run.stop.installed(), pytest.raises(UserError, match="a shard is missing"):
        run.start()
    assert (run.state["status"], run.state["tracking_problem"], run.tracker.status) == ("FAILED", None, "FAILED")


def test_ctrl_c_twice_does_not_wait_for_mlflow_and_keeps_the_exit_code(
    run: Run, script: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answer = threading.Event(), threading.Event()
    end = FakeTracker.end

    def slow(tracker: FakeTracker, *arguments: Any) -> None:
        begun.set()
        answer.wait(10)
        end(tracker, *arguments)

    def press() -> None:
        begun.wait(10)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    monkeypatch.setattr(FakeTracker, "end", slow)
    monkeypatch.setattr(deliveries, "LAST_DELIVERY_S", 10.0)
    script(attempt, finished)
    presses = threading.Thread(target=press)
    with run.stop.installed():
        presses.start()
        outcome = run.start()
        presses.join()
    answer.set()
    assert (outcome.status, print_outcome(outcome)) == ("FINISHED", 0)
    assert run.state["status"] == "FINISHED" and run.state["tracking_problem"] == "it was not waited for"
    assert "when it answers: wavetrain sync small" in run.said
