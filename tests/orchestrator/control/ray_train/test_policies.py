"""Our policies under Ray Train's own controller, with a worker group that needs no Ray."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import scaling_policy
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus
from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus

from orchestrator.control.ray_train import nodes, policies
from orchestrator.control.ray_train.failure_book import FailureBook
from orchestrator.control.ray_train.nodes import Node
from orchestrator.control.ray_train.policies import (
    BudgetedFailurePolicy,
    EndBrokenGroup,
    FixedPolicy,
    PartitionScalingPolicy,
)
from orchestrator.control.ray_train.private import NoopDecision, ResizeDecision
from orchestrator.run.events import EventWriter, read_events
from orchestrator.run.failures import RankError
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.failures import FailuresSection


class ActorDiedError(Exception):
    """As Ray's: the process is gone."""


class NoCoordinator:
    """Takes the requests for resources that a scaling policy sends."""

    def __init__(self, requester: str = "") -> None:
        self.requests = 0

    def maybe_send_resource_request(self, *arguments: Any) -> None:
        self.requests += 1

    def send_resource_request(self, *arguments: Any) -> None:
        self.requests += 1

    def cancel_resource_request(self) -> None:
        pass


class Groups:
    """Worker groups of two ranks, one after the other; each does its part of a script and ends as that says."""

    def __init__(self, script: Sequence[Callable[[], BaseException | None]]) -> None:
        self.script = list(script)
        self.started: list[float] = []
        self.selectors: list[Any] = []

    def create(self, *, worker_group_context: Any, **arguments: Any) -> "Group":
        self.started.append(time.monotonic())
        self.selectors.append(worker_group_context.label_selector)
        return Group(self.script.pop(0))


class Group:
    def __init__(self, part: Callable[[], BaseException | None]) -> None:
        self._part = part

    def __len__(self) -> int:
        return 2

    def get_workers(self) -> list[int]:
        return [0, 1]

    def get_latest_poll_status(self) -> None:
        return None

    def shutdown(self) -> None:
        pass

    def poll_status(self, timeout: float | None = None) -> WorkerGroupPollStatus:
        error = self._part()
        return WorkerGroupPollStatus({rank: WorkerStatus(running=False, error=error) for rank in (0, 1)})


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.fixture
def control(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs Ray Train's controller over some groups to its end; its final state."""
    monkeypatch.setenv("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.01")
    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", NoCoordinator)
    monkeypatch.setattr(policies, "POLL_S", 0.02)
    monkeypatch.setattr(policies, "living_nodes", lambda: [Node("a", "n1", {"CPU": 2.0})])
    # Something that asks for a cluster would start one.
    monkeypatch.setattr(ray, "init", lambda *arguments, **settings: pytest.fail("a Ray cluster is not needed"))

    def run(groups: Groups, lacks_without: Callable[..., str | None] | None = None, **budgets: float) -> Any:
        config = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
        context = TrainRunContext(
            run_config=RunConfig(name="test", storage_path=str(directory.path)),
            train_loop_config={}, scaling_config=config, backend_config=TorchConfig(), dataset_config=None,
        )  # fmt: skip
        monkeypatch.setattr(TrainController, "worker_group_cls", groups)
        controller = TrainController(
            train_fn_ref=None, train_run_context=context, scaling_policy=FixedPolicy(config, directory),
            failure_policy=BudgetedFailurePolicy(
                FailureBook(directory, FailuresSection(**budgets), lacks_without=lacks_without)
            ), callbacks=[],
        )  # fmt: skip
        asyncio.run(controller.run())
        return type(controller.get_state()).__name__

    return run


class Rank:
    def __init__(self, number: int) -> None:
        self.actor = number


class Ended(Group):
    """A group that has ended with an error, or well."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(lambda: error)

    def get_workers(self) -> list[Any]:
        return [Rank(0), Rank(1)]

    def get_latest_poll_status(self) -> Any:
        return self.poll_status()


@pytest.mark.parametrize(("error", "ended"), [(ActorDiedError("gone"), [0, 1]), (None, [])])
def test_what_is_left_of_a_broken_group_is_ended_at_once(
    error: BaseException | None, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    EndBrokenGroup().before_worker_group_shutdown(Ended(error))
    assert killed == ended


def kinds(directory: RunDirectory) -> list[str]:
    return [event["failure"]["kind"] for event in read_events(directory.failures)[0]]


def gone() -> BaseException:
    return ActorDiedError("gone")


def ends() -> None:
    return None


def test_the_next_group_starts_when_the_wait_is_over(directory: RunDirectory, control: Callable[..., Any]) -> None:
    groups = Groups([gone, gone, gone, ends])
    assert control(groups, worker=3, backoff_s=0.3) == "FinishedState"
    _, first, second, third = groups.started
    assert second - first >= 0.3 and third - second >= 0.6
    assert kinds(directory) == ["worker"] * 3


def test_a_spent_budget_ends_the_run_without_a_wait(directory: RunDirectory, control: Callable[..., Any]) -> None:
    groups = Groups([gone, ends])
    started = time.monotonic()
    assert control(groups, worker=0, backoff_s=300) == "ErroredState"
    assert time.monotonic() - started < 60 and len(groups.started) == 1


def test_a_stop_request_lets_the_next_group_start_at_once(directory: RunDirectory, control: Callable[..., Any]) -> None:
    def gone_while_stopped() -> BaseException:
        directory.stop_request.touch()
        return gone()

    started = time.monotonic()
    assert control(Groups([gone, gone_while_stopped, ends]), worker=2, backoff_s=300) == "FinishedState"
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("cpus", "placed"), [(2.0, True), (1.0, False)])
def test_a_group_is_on_its_way_from_its_start_to_its_failure_where_there_is_room_for_it(
    directory: RunDirectory,
    control: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    cpus: float,
    placed: bool,
) -> None:
    monkeypatch.setattr(policies, "living_nodes", lambda: [Node("a", "n1", {"CPU": cpus})])
    seen: list[bool] = []

    def look() -> BaseException:
        seen.append(directory.placed.exists())
        return gone()

    control(Groups([look, look]), worker=1, backoff_s=0)
    assert seen == [placed, placed] and not directory.placed.exists()


def broken() -> BaseException:
    return RankError(RuntimeError("CUDA error: uncorrectable ECC error encountered"), time.time(), "n2")


def test_the_next_groups_are_not_placed_on_the_node_of_a_broken_device(
    directory: RunDirectory, control: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = [Node(letter * 56, host, {"CPU": 2.0}) for host, letter in (("n1", "a"), ("n2", "b"), ("n3", "c"))]
    monkeypatch.setattr(nodes, "known_nodes", lambda: cluster)
    groups = Groups([gone, broken, gone, ends])
    assert control(groups, lacks_without=lambda hosts: None, worker=3, backoff_s=0) == "FinishedState"
    without = [{"ray.io/node-id": f"!in({'b' * 56})"}] * 2
    assert groups.selectors == [None, None, without, without]
    assert kinds(directory) == ["worker", "device", "worker"]


def test_a_run_ends_at_once_where_too_few_nodes_are_left(directory: RunDirectory, control: Callable[..., Any]) -> None:
    groups = Groups([broken, ends])
    assert control(groups, lacks_without=lambda hosts: f"without {', '.join(hosts)} there is no room") == "ErroredState"
    ((event,), _) = read_events(directory.failures)
    assert event["failure"]["cause"].endswith("uncorrectable ECC error encountered; without n2 there is no room")
    assert len(groups.started) == 1


def test_stacks_of_the_group_before_are_no_hang(directory: RunDirectory, control: Callable[..., Any]) -> None:
    directory.stacks.mkdir()
    (directory.stacks / "rank-0-process-5.txt").write_text("of a controller that was killed")
    write = iter((True, False))

    def hang() -> BaseException:
        if next(write):
            (directory.stacks / "rank-1-process-7.txt").write_text("")
        return gone()

    assert control(Groups([gone, hang, hang, ends]), worker=5, hang=5, backoff_s=0) == "FinishedState"
    assert kinds(directory) == ["worker", "hang", "worker"]


def test_ranks_are_as_many_as_divide_the_partitions_and_a_group_grows_after_it_has_saved(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {"n1": 2.0, "n2": 1.0}
    monkeypatch.setattr(
        policies, "living_nodes", lambda: [Node(host, host, {"CPU": cpus}) for host, cpus in cluster.items()]
    )
    config = ScalingConfig(num_workers=(1, 8), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=0)
    policy = PartitionScalingPolicy(config, directory, partitions=8)
    coordinator = NoCoordinator()
    policy._coordinator_client = coordinator
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2

    class State:
        num_workers, start_time = 2, 0.0

    def decide() -> Any:
        return policy.make_decision_for_running_worker_group(State(), None)

    assert isinstance(decide(), NoopDecision) and not directory.pause_request.exists()
    cluster["n3"] = 1.0
    assert isinstance(decide(), NoopDecision) and directory.pause_request.exists(), "it saves first"
    assert isinstance(decide(), NoopDecision)
    directory.pause_request.replace(directory.paused)
    decision = decide()
    assert isinstance(decision, ResizeDecision) and decision.num_workers == 4
    assert not directory.paused.exists()
    with EventWriter(directory.failures) as book:
        book.write("failure", failure={}, retry=True, wait_s=0.0, left_out={"n1": "GPU 0: must be reset"})
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2, "without n1"
    cluster.clear()
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision), "nobody is there"
    assert coordinator.requests > 0
