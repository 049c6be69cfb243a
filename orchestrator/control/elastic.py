"""How many ranks a run has while nodes come and go: the most that divide the partitions, grown without lost work."""

import socket
from typing import Any

from orchestrator.run.folder import RunDirectory

RESIZE_INTERVAL_S = 10.0
"""Seconds that a worker group runs at least before it may grow."""
ANSWER_S = 1.0
"""Seconds in which a node that is alive accepts a connection."""


def largest_world(available: int, partitions: int) -> int:
    """The largest world size up to ``available`` that divides the partitions; 0 where nothing is available."""
    return next((world for world in range(min(available, partitions), 0, -1) if partitions % world == 0), 0)


def living_nodes() -> dict[str, dict[str, float]]:
    """Resources by node of the cluster, without nodes that do not answer.

    Ray notices the loss of a node seconds after its workers failed; a group planned on it would never start.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"]: node["Resources"] for node in nodes if _answers(node)}


def _answers(node: dict[str, Any]) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def make_scaling_policy(config: Any, directory: RunDirectory, partitions: int) -> Any:
    """Ray Train's elastic policy with our rules, for a ``ScalingConfig`` whose ``num_workers`` is a range."""
    from ray.train.v2._internal.execution.scaling_policy import (
        ElasticScalingPolicy,
        NoopDecision,
        ResizeDecision,
    )

    class PartitionScalingPolicy(ElasticScalingPolicy):  # type: ignore[misc]
        """World sizes that divide the partitions; a group grows only after it has saved and waits."""

        def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
            return living_nodes()

        def _count_possible_workers(self, reserved_resources: Any) -> int:
            return largest_world(super()._count_possible_workers(reserved_resources), partitions)

        def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
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

    return PartitionScalingPolicy(config)
