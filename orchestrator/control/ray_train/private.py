"""The private parts of Ray Train that Wavetrain uses: what an upgrade of Ray may change without notice.

Those of Ray itself are in ``lean_node.py`` and ``fork_server.py``, which must not import Ray Train. Nothing else
imports from ``ray.train.v2._internal`` or passes private arguments; a test compares each part with these lists and
names the one that changed.
"""

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup

__all__ = [
    "METHODS",
    "DatasetsCallback",
    "ElasticScalingPolicy",
    "FailureDecision",
    "FailurePolicy",
    "FixedScalingPolicy",
    "NoopDecision",
    "PlacementGroupCleanerCallback",
    "ResizeDecision",
    "ScalingPolicy",
    "WorkerGroupCallback",
]


@dataclass(frozen=True, slots=True)
class Method:
    """A method that our classes override or call, with its parameters."""

    owner: Any
    name: str
    parameters: tuple[str, ...]


METHODS = (
    Method(FailurePolicy, "make_decision", ("self", "training_failed_error")),
    Method(ScalingPolicy, "_maybe_send_resource_request", ("self",)),
    Method(ScalingPolicy, "on_controller_start_worker_group", ("self", "scaling_config", "num_workers")),
    Method(FixedScalingPolicy, "make_decision_for_non_running_worker_group", ("self",)),
    Method(ElasticScalingPolicy, "make_decision_for_non_running_worker_group", ("self",)),
    Method(
        ElasticScalingPolicy,
        "make_decision_for_running_worker_group",
        ("self", "worker_group_state", "worker_group_status"),
    ),
    Method(ElasticScalingPolicy, "_get_reserved_resources", ("self",)),
    Method(ElasticScalingPolicy, "_count_possible_workers", ("self", "reserved_resources")),
    Method(WorkerGroupCallback, "before_worker_group_shutdown", ("self", "worker_group")),
    Method(WorkerGroup, "get_latest_poll_status", ("self",)),
    Method(WorkerGroup, "get_workers", ("self",)),
    Method(TorchTrainer, "_create_default_callbacks", ("self",)),
    Method(TorchTrainer, "_initialize_and_run_controller", ("self", "controller_init_kwargs")),
)
