"""Decisions after failures, one after the other, without a cluster."""

import pickle

import pytest

from channels.errors import UserError
from orchestrator.control.failure_policy import Kind, classify, decide, describe, describe_all
from orchestrator.run.adjustments import Adjustments
from orchestrator.run.failures import MicroBatchTooLargeError, TrainingDivergedError
from orchestrator.spec.job import FailuresSection

NONE = Adjustments()
GLOO = RuntimeError("Connection closed by peer [127.0.0.1]:3421")


class ActorDiedError(Exception):
    """As Ray's: the process is gone; ``preempted`` with its node."""

    def __init__(self, text: str, preempted: bool = False) -> None:
        super().__init__(text)
        self.preempted = preempted


class WrappedError(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


@pytest.mark.parametrize(
    ("failures", "hung", "kind", "rank"),
    [
        ({0: GLOO, 1: ActorDiedError("gone")}, (), Kind.WORKER, 1),
        ({0: GLOO, 1: ActorDiedError("gone", preempted=True)}, (), Kind.PREEMPTION, 1),
        ({0: GLOO, 3: WrappedError(MicroBatchTooLargeError("too large", 4, 1))}, (), Kind.OUT_OF_MEMORY, 3),
        ({0: GLOO, 2: MemoryError()}, (), Kind.OUT_OF_MEMORY, 2),
        ({0: GLOO, 2: RuntimeError("could not create a primitive")}, (), Kind.OUT_OF_MEMORY, 2),
        ({0: TrainingDivergedError("NaN", 3), 1: TrainingDivergedError("NaN", 3)}, (), Kind.DIVERGED, 0),
        ({1: WrappedError(UserError("shard missing")), 0: GLOO}, (), Kind.BAD_DATA, 1),
        ({0: ActorDiedError("exit 86"), 1: ActorDiedError("killed")}, (0,), Kind.HANG, 0),
        ({-1: ActorDiedError("no group")}, (), Kind.WORKER, None),
    ],
)
def test_the_failure_that_explains_the_others(failures, hung, kind, rank) -> None:
    failure, _ = classify(failures, hung)
    assert (failure.kind, failure.rank) == (kind, rank)
    assert "\n" not in failure.cause


def test_every_kind_has_its_budget_and_the_wait_doubles_up_to_its_cap() -> None:
    section = FailuresSection(worker=4, preemption=1, backoff_s=2, backoff_cap_s=5)
    past: list[Kind] = []
    decided = []
    for kind in (Kind.WORKER, Kind.WORKER, Kind.PREEMPTION, Kind.WORKER, Kind.PREEMPTION, Kind.WORKER, Kind.WORKER):
        past.append(kind)
        decision = decide(section, past, GLOO, NONE)
        decided.append((decision.retry, decision.wait_s))
    assert decided == [(True, 2), (True, 4), (True, 2), (True, 5), (False, 4), (True, 5), (False, 5)]


def test_a_diverged_step_is_skipped_where_the_budget_allows_to_go_back() -> None:
    error = TrainingDivergedError("NaN", 17)
    assert not decide(FailuresSection(), [Kind.DIVERGED], error, NONE).retry
    decision = decide(FailuresSection(diverged=2), [Kind.DIVERGED], error, Adjustments((3,)))
    assert decision.retry and decision.adjustments.skipped_steps == (3, 17)


def test_the_micro_batch_of_a_bucket_is_halved_until_none_is_left() -> None:
    now = Adjustments(micro_batch={0: 5, 2: 16})
    decision = decide(FailuresSection(), [Kind.OUT_OF_MEMORY], MicroBatchTooLargeError("", 8, bucket=2), now)
    assert decision.retry and decision.adjustments.micro_batch == {0: 5, 2: 8}
    assert not decide(FailuresSection(), [Kind.OUT_OF_MEMORY], MicroBatchTooLargeError("", 0, bucket=2), now).retry


@pytest.mark.parametrize("error", [TrainingDivergedError("NaN here", 5), MicroBatchTooLargeError("too large", 4, 2)])
def test_errors_survive_the_way_between_processes(error: RuntimeError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_failures_are_described_in_a_line() -> None:
    failure = {"kind": "worker", "rank": 1, "node": "n7", "cause": "ActorDiedError: gone"}
    assert describe(failure) == "worker of rank 1 on n7: ActorDiedError: gone"
    assert describe({**failure, "rank": None, "node": None}) == "worker: ActorDiedError: gone"
    assert describe_all([failure, failure]) == f"(1) {describe(failure)}; (2) {describe(failure)}"
