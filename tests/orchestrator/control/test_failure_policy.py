"""Decisions after failures, one after the other, without a cluster."""

import pickle

import pytest

from channels.errors import UserError
from orchestrator.control.failure_policy import Failure, Kind, blame_devices, classify, decide, describe, describe_all
from orchestrator.run.adjustments import Adjustments
from orchestrator.run.failures import MicroBatchTooLargeError, RankError, TrainingDivergedError
from orchestrator.spec.failures import FailuresSection

NONE = Adjustments()
GLOO = RuntimeError("Connection closed by peer [127.0.0.1]:3421")
NCCL = RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, remote process exited or there was a network error")
ECC = RuntimeError("CUDA error: uncorrectable ECC error encountered")


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


def at(time: float, error: BaseException, host: str = "n1") -> WrappedError:
    """As a rank's error arrives from Ray Train."""
    return WrappedError(RankError(error, time, host))


@pytest.mark.parametrize(
    ("failures", "kind", "rank"),
    [
        ({0: at(9.0, NCCL), 37: at(8.0, ECC, "n5")}, Kind.DEVICE, 37),
        ({0: at(7.0, NCCL), 37: at(8.0, ECC, "n5")}, Kind.DEVICE, 37),
        ({0: at(9.0, ValueError("late")), 5: at(8.0, KeyError("early"))}, Kind.WORKER, 5),
        ({0: at(9.0, UserError("no shard")), 5: at(8.0, RuntimeError("an assertion in a kernel"))}, Kind.WORKER, 5),
        ({0: ActorDiedError("aborted"), 5: at(8.0, RuntimeError("CUDA error: misaligned address"))}, Kind.WORKER, 5),
        ({0: at(9.0, GLOO), 1: at(8.0, GLOO), 2: ActorDiedError("killed")}, Kind.WORKER, 2),
        ({0: at(9.0, ValueError("x")), 2: ActorDiedError("gone", preempted=True)}, Kind.PREEMPTION, 2),
        ({rank: at(9.0 - rank, TrainingDivergedError("NaN", 3)) for rank in range(4)}, Kind.DIVERGED, 0),
        ({0: at(9.0, RuntimeError("NCCL error: unhandled cuda error, Cuda failure 214 'uncorrectable ECC error'")),
          1: at(8.0, NCCL)}, Kind.DEVICE, 0),
        ({0: at(9.0, RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"))}, Kind.WORKER, 0),
    ],
)  # fmt: skip
def test_the_first_error_in_time_is_the_cause_and_broken_collectives_are_none(failures, kind, rank) -> None:
    failure, _ = classify(failures)
    assert (failure.kind, failure.rank) == (kind, rank)


def test_a_broken_device_names_its_node() -> None:
    failure, error = classify({0: at(7.0, NCCL), 37: at(8.0, ECC, "n5")})
    assert error is ECC
    assert (failure.node, failure.bad_nodes) == ("n5", {"n5": "RuntimeError: " + str(ECC)})
    again = pickle.loads(pickle.dumps(RankError(ECC, 8.0, "n5")))
    assert (str(again.cause), again.time, again.host) == (str(ECC), 8.0, "n5")


@pytest.mark.parametrize(
    ("nodes", "blamed"),
    [(("n1", "n2"), False), (("n1", "n1"), True), (("n1", "n2", "n3"), False)],
)
def test_no_device_is_blamed_for_what_every_node_reports(nodes: tuple[str, ...], blamed: bool) -> None:
    """One after the other they would be left out of the run."""
    error = RuntimeError("CUDA error: no CUDA-capable device is detected")
    failures = {rank: at(8.0 + rank, error, node) for rank, node in enumerate(nodes)}
    failure, _ = classify(failures)
    assert (failure.kind is Kind.DEVICE, bool(failure.bad_nodes)) == (blamed, blamed)
    assert "no CUDA-capable device" in failure.cause
    alone, _ = classify({**failures, 9: at(9.0, NCCL, "n9")})
    assert alone.bad_nodes.keys() == {"n1"}


def failed(kind: Kind, rank: int | None, node: str | None) -> Failure:
    return Failure(kind, "ActorDiedError: gone", rank, 1.0, node)


@pytest.mark.parametrize(
    ("before", "kind", "rank", "node"),
    [
        (failed(Kind.WORKER, 3, None), Kind.DEVICE, None, "n2"),
        (failed(Kind.WORKER, 9, "n2"), Kind.DEVICE, 9, "n2"),
        (failed(Kind.HANG, 0, "n1"), Kind.DEVICE, None, "n2"),
        (failed(Kind.DIVERGED, 0, "n2"), Kind.DIVERGED, 0, "n2"),
        (failed(Kind.BAD_DATA, 0, "n2"), Kind.BAD_DATA, 0, "n2"),
    ],
)
def test_a_device_found_broken_explains_what_a_device_can_cause(before, kind, rank, node) -> None:
    after = blame_devices(before, {"n2": "GPU 4: must be reset"})
    assert (after.kind, after.rank, after.node) == (kind, rank, node)
    if kind is Kind.DEVICE:
        assert after.bad_nodes == {"n2": "GPU 4: must be reset"}
        assert after.cause == "n2: GPU 4: must be reset; ActorDiedError: gone"
    assert blame_devices(before, {}) is before


def test_every_kind_has_its_budget_and_the_wait_after_its_first_failure_doubles_up_to_its_cap() -> None:
    section = FailuresSection(worker=4, preemption=1, backoff_s=2, backoff_cap_s=5)
    past: list[Kind] = []
    decided = []
    for kind in (Kind.WORKER, Kind.WORKER, Kind.PREEMPTION, Kind.WORKER, Kind.PREEMPTION, Kind.WORKER, Kind.WORKER):
        past.append(kind)
        decision = decide(section, past, GLOO, NONE)
        decided.append((decision.retry, decision.wait_s))
    assert decided == [(True, 0), (True, 2), (True, 0), (True, 4), (False, 2), (True, 5), (False, 5)]


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
