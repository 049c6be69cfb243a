"""What a failure leaves in the run's folder, and when the next attempt may start."""

import pickle
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from orchestrator.control.ray_train.backoff import Backoff
from orchestrator.control.ray_train.failure_book import FailureBook, set_aside_stacks
from orchestrator.run.adjustments import Adjustments, read_adjustments
from orchestrator.run.events import read_events
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.failures import FailuresSection

GLOO = RuntimeError("Connection closed by peer [127.0.0.1]:3421")


class ActorDiedError(Exception):
    """As Ray's: the process is gone."""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def kinds(directory: RunDirectory) -> list[tuple[str, bool]]:
    events, _ = read_events(directory.failures)
    return [(event["failure"]["kind"], event["retry"]) for event in events]


def leave_stacks(directory: RunDirectory, rank: int, process: int) -> None:
    directory.stacks.mkdir(exist_ok=True)
    (directory.stacks / f"rank-{rank}-process-{process}.txt").write_text(f"{process}")


def test_the_book_keeps_what_happened(directory: RunDirectory) -> None:
    book = pickle.loads(pickle.dumps(FailureBook(directory, FailuresSection(worker=1, diverged=1, backoff_s=0))))
    assert book.fail({0: GLOO, 1: ActorDiedError("gone")})
    assert book.fail({0: TrainingDivergedError("NaN", 9)})
    with directory.failures.open("a") as torn:
        torn.write('{"kind":"failure","failure":{"ki')
    leave_stacks(directory, 0, 77)
    assert book.fail({0: ActorDiedError("exit 86")})
    set_aside_stacks(directory.stacks)
    assert not book.fail({1: ActorDiedError("gone again")})
    assert kinds(directory) == [("worker", True), ("diverged", True), ("hang", True), ("worker", False)]
    assert read_adjustments(directory.adjustments) == Adjustments((9,))


@pytest.mark.parametrize("replaces", [True, False])
def test_after_a_failure_the_devices_are_tried_and_no_attempt_follows_on_the_same_ones(
    directory: RunDirectory, replaces: bool
) -> None:
    found = iter([{}, {"n2": "GPU 4: must be reset"}])
    book = FailureBook(directory, FailuresSection(backoff_s=0), lambda left_out: next(found), replaces_nodes=replaces)
    assert book.fail({0: GLOO, 1: ActorDiedError("gone")})
    assert book.fail({0: GLOO, 1: ActorDiedError("gone")}) is replaces
    assert book.fail({0: TrainingDivergedError("NaN", 9)}) is False, "and the devices are not asked"
    assert kinds(directory) == [("worker", True), ("device", replaces), ("diverged", False)]
    events, _ = read_events(directory.failures)
    assert events[1]["failure"]["bad_nodes"] == {"n2": "GPU 4: must be reset"}


def test_on_a_cluster_that_stands_nodes_with_broken_devices_add_up_and_are_left_out(directory: RunDirectory) -> None:
    reset = {"n2": "GPU 4: must be reset"}
    found = iter([reset, {}, {"n5": "GPU 0: lost"}, {"n6": "GPU 1: lost"}])
    unused: list[list[str]] = []
    asked: list[list[str]] = []

    def lacks_without(hosts: Collection[str]) -> str | None:
        asked.append(list(hosts))
        return "there is no room" if len(hosts) > 2 else None

    def check(left_out: Collection[str]) -> Mapping[str, str]:
        unused.append(list(left_out))
        return next(found)

    book = FailureBook(directory, FailuresSection(backoff_s=0), check, lacks_without=lacks_without)
    assert [book.fail({0: GLOO}) for _ in range(4)] == [True, True, True, False]
    events, _ = read_events(directory.failures)
    assert [list(event["left_out"]) for event in events] == [["n2"], ["n2"], ["n2", "n5"], ["n2", "n5", "n6"]]
    assert asked == [["n2"], ["n2", "n5"], ["n2", "n5", "n6"]]
    assert unused == [[], ["n2"], ["n2"], ["n2", "n5"]], "what is left out has no rank that could have failed"
    assert [kind for kind, _ in kinds(directory)] == ["device", "worker", "device", "device"], "n2 broke once"
    assert events[2]["left_out"]["n5"] == "GPU 0: lost" and events[3]["failure"]["cause"].endswith("there is no room")


def test_a_broken_device_of_an_unknown_node_ends_the_run_on_a_cluster_that_stands_too(directory: RunDirectory) -> None:
    book = FailureBook(directory, FailuresSection(), lambda left_out: {}, lacks_without=lambda hosts: None)
    assert not book.fail({0: RuntimeError("CUDA error: no CUDA-capable device is detected")})
    assert kinds(directory) == [("device", False)]


def test_a_decision_is_made_at_once(directory: RunDirectory) -> None:
    started = time.monotonic()
    book = FailureBook(directory, FailuresSection(backoff_s=300))
    assert book.fail({0: GLOO}) and book.fail({0: GLOO})
    assert time.monotonic() - started < 10
    events, _ = read_events(directory.failures)
    assert [event["wait_s"] for event in events] == [0, 300]


def test_stacks_that_the_last_group_writes_during_the_wait_are_no_hang_of_the_next_one(directory: RunDirectory) -> None:
    book = FailureBook(directory, FailuresSection(worker=5, hang=5, backoff_s=0))
    leave_stacks(directory, 0, 70)
    assert book.fail({0: ActorDiedError("exit 86")})
    leave_stacks(directory, 1, 71)  # its patience ends later than that of the first
    set_aside_stacks(directory.stacks)
    assert book.fail({1: ActorDiedError("killed")})
    leave_stacks(directory, 1, 71)  # in a container process ids repeat
    assert book.fail({0: ActorDiedError("exit 86")})
    set_aside_stacks(directory.stacks)
    assert [kind for kind, _ in kinds(directory)] == ["hang", "worker", "hang"]
    kept = {str(path.relative_to(directory.stacks)) for path in directory.stacks.rglob("*.txt")}
    assert kept == {"earlier-1/rank-0-process-70.txt", "earlier-1/rank-1-process-71.txt",
                    "earlier-2/rank-1-process-71.txt"}  # fmt: skip


def test_the_next_attempt_waits_as_long_as_the_record_says(directory: RunDirectory) -> None:
    FailureBook(directory, FailuresSection(backoff_s=50)).fail({0: GLOO})
    backoff = pickle.loads(pickle.dumps(Backoff(directory.failures, directory.stop_request)))
    assert backoff.is_over(1000.0), "a failure before this start of the controller"
    book = FailureBook(directory, FailuresSection(worker=3, backoff_s=50))
    book.fail({0: GLOO})
    assert backoff.is_over(1000.0), "the first time there is no wait"
    book.fail({0: GLOO})
    assert [backoff.is_over(now) for now in (1000.0, 1049.9, 1050.0)] == [False, False, True]
    book.fail({0: GLOO})
    assert [backoff.is_over(now) for now in (1100.0, 1199.9, 1200.0)] == [False, False, True]
    book.fail({0: GLOO})
    assert backoff.is_over(1300.0), "no attempt follows, so nothing waits"


def test_a_stop_request_ends_the_wait(directory: RunDirectory) -> None:
    backoff = Backoff(directory.failures, directory.stop_request)
    book = FailureBook(directory, FailuresSection(backoff_s=300))
    assert book.fail({0: GLOO}) and book.fail({0: GLOO})
    assert not backoff.is_over(0.0)
    directory.stop_request.touch()
    assert backoff.is_over(1.0)
