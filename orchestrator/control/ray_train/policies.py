"""Our rules as policies of Ray Train's controller: whether and when a failed run starts again, and on how many ranks.

Ray pickles the policies one by one for the process of its controller, so what they share lies in the run's folder.
"""

import time
from contextlib import suppress
from typing import Any

import ray
from ray.train import FailureConfig

from orchestrator.control.ray_train.backoff import Backoff
from orchestrator.control.ray_train.failure_book import FailureBook, set_aside_stacks
from orchestrator.control.ray_train.nodes import LeftOut, Node, count_ranks, largest_world, living_nodes, named
from orchestrator.control.ray_train.private import (
    ElasticScalingPolicy,
    FailureDecision,
    FailurePolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    WorkerGroupCallback,
)
from orchestrator.run.folder import RunDirectory

POLL_S = 0.2


class BudgetedFailurePolicy(FailurePolicy):  # type: ignore[misc]
    """Asks the run's book of failures."""

    def __init__(self, book: FailureBook) -> None:
        super().__init__(FailureConfig())
        self._book = book

    def make_decision(self, training_failed_error: Any) -> Any:
        """RETRY or RAISE, at once."""
        failures = getattr(training_failed_error, "worker_failures", None)
        alone = getattr(training_failed_error, "controller_failure", training_failed_error)
        return FailureDecision.RETRY if self._book.fail(failures or {-1: alone}) else FailureDecision.RAISE


class EndBrokenGroup(WorkerGroupCallback):  # type: ignore[misc]
    """Ends what is left of a group that has failed, at once.

    Ray Train asks its ranks first to take down their process group, then to shut down, and waits for seconds for a rank
    that is stopped or stuck.
    """

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called in the controller of Ray Train, before its own callbacks."""
        status = worker_group.get_latest_poll_status()
        if status is not None and status.errors:
            for worker in worker_group.get_workers():
                ray.kill(worker.actor)


class _CarefulStart:
    """Starts no group before the wait after a failure is over, and none on a node that a failure leaves out.

    Stands before a scaling policy of Ray's.
    """

    def __init__(self, config: Any, directory: RunDirectory) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self._directory = directory
        self._backoff = Backoff(directory.failures, directory.stop_request)
        self._left_out = LeftOut(directory.failures)

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Nothing until it is time; then what Ray's policy says."""
        if self._backoff.is_over(time.monotonic()):
            return super().make_decision_for_non_running_worker_group()  # type: ignore[misc]
        self._maybe_send_resource_request()  # type: ignore[attr-defined]
        # Ray's controller asks again at once.
        time.sleep(POLL_S)
        return NoopDecision()

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> Any:
        """Ray's label selector of the nodes that the next group may be placed on; None: all.

        The last group is gone: what its ranks wrote until now says nothing about the next one.
        """
        set_aside_stacks(self._directory.stacks)
        if count_ranks(self._usable_nodes(), scaling_config.resources_per_worker) >= num_workers:
            # Where the disk is full, a stop does not wait as long for these ranks as it could.
            with suppress(OSError):
                self._directory.placed.touch()
        return self._left_out.selector() or super().on_controller_start_worker_group(  # type: ignore[misc]
            scaling_config=scaling_config, num_workers=num_workers
        )

    def _usable_nodes(self) -> list[Node]:
        nodes = living_nodes()
        bad = named(self._left_out.hosts(), nodes)
        return [node for node in nodes if node not in bad]


class FixedPolicy(_CarefulStart, FixedScalingPolicy):  # type: ignore[misc]
    """Always the same number of ranks."""


class PartitionScalingPolicy(_CarefulStart, ElasticScalingPolicy):  # type: ignore[misc]
    """World sizes that divide the partitions; a group grows only after it has saved and waits."""

    def __init__(self, config: Any, directory: RunDirectory, partitions: int) -> None:
        super().__init__(config, directory)
        self._partitions = partitions

    def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return {node.id: dict(node.resources) for node in self._usable_nodes()}

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        return largest_world(super()._count_possible_workers(reserved_resources), self._partitions)

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Ask the group to save and wait where it may grow; replace it once it does."""
        directory = self._directory
        if directory.pause_request.exists():
            return NoopDecision()
        if directory.paused.exists():
            decision = super().make_decision_for_non_running_worker_group()
            if isinstance(decision, ResizeDecision):
                # The new group takes long to say a word; it must not be taken for the one that waits.
                directory.paused.unlink(missing_ok=True)
            return decision
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        # A group that lost a node fails by itself; what only seems lost must not end it.
        if isinstance(decision, ResizeDecision) and decision.num_workers > worker_group_state.num_workers:
            directory.pause_request.touch()
        return NoopDecision()
