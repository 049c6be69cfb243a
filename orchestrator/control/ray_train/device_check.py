"""After a failure: every node of the cluster looks at its GPUs and tries them."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.control.ray_train.environment import host_name
from orchestrator.monitoring.device_health import examine_node
from orchestrator.run.rank_log import numbers

SPARE_S = 15.0
"""For Ray to start a process on every node and to bring back what it found."""


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """attempts: folder of what the ranks recorded. limit_s: for a node to try its devices."""

    attempts: Path
    limit_s: float

    def __call__(self) -> dict[str, str]:
        """What is wrong with the devices of each node that has a broken one, by its name."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        before = uncorrected_before(self.attempts)
        task = ray.remote(num_cpus=0, max_retries=0)(_examine)
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        asked = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                before, self.limit_s
            )
            for node in nodes
        ]
        answered, silent = (
            ray.wait(asked, num_returns=len(asked), timeout=self.limit_s + SPARE_S) if asked else ([], [])
        )
        for reference in silent:
            ray.cancel(reference, force=True)
        return bad_nodes([_answer(reference) for reference in answered])


def bad_nodes(answers: list[tuple[str, str | None] | None]) -> dict[str, str]:
    """Those with a problem, of what the nodes answered; None: one could not."""
    return {host: problem for host, problem in filter(None, answers) if problem is not None}


def uncorrected_before(attempts: Path) -> dict[str, int]:
    """Memory errors of every GPU at the start of the newest attempt, by uuid, as its ranks recorded them."""
    newest = max(numbers(attempts), default=0)
    records: list[Mapping[str, Any]] = [
        json.loads(path.read_text()) for path in (attempts / str(newest)).glob("rank-*.json")
    ]
    return {record["uuid"]: record["uncorrected"] for record in records if record["uncorrected"] is not None}


def _examine(before: Mapping[str, int], limit_s: float) -> tuple[str, str | None]:
    return host_name(), examine_node(before, limit_s)


def _answer(reference: Any) -> tuple[str, str | None] | None:
    """A node that is lost is found by others."""
    import ray

    try:
        answer: tuple[str, str | None] = ray.get(reference)
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).warning("a node could not try its devices: %s", error)
        return None
    return answer
