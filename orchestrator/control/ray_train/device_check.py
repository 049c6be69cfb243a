"""After a failure: every node of the cluster that is in use looks at its GPUs and tries them."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.control.ray_train.environment import host_name
from orchestrator.control.ray_train.nodes import known_nodes, named
from orchestrator.monitoring.device_health import examine_node
from orchestrator.run.rank_log import numbers

SPARE_S = 15.0
"""For Ray to start a process on every node and to bring back what it found."""


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """attempts: folder of what the ranks recorded. limit_s: for a node to try its devices."""

    attempts: Path
    limit_s: float

    def __call__(self, left_out: Collection[str]) -> dict[str, str]:
        """What is wrong with the devices of each node that has a broken one, by its name.

        left_out: names of nodes that are not asked: they have no rank that could have failed, and what is wrong there
        is no reason to disbelieve the others.
        """
        before = read_before(self.attempts)
        task = ray.remote(num_cpus=0, max_retries=0)(_examine)
        nodes = [node for node in known_nodes() if node.resources.get("GPU")]
        unused = named(left_out, nodes)
        asked = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                before, self.limit_s
            )
            for node in nodes
            if node not in unused
        ]
        answered, silent = (
            ray.wait(asked, num_returns=len(asked), timeout=self.limit_s + SPARE_S) if asked else ([], [])
        )
        for reference in silent:
            ray.cancel(reference, force=True)
        return bad_nodes([_answer(reference) for reference in answered])


def bad_nodes(answers: list[tuple[str, str | None] | None]) -> dict[str, str]:
    """Those with a problem, of what the nodes answered; None: one could not.

    None is bad where all of several are: what they have in common is no device.
    """
    told = [answer for answer in answers if answer is not None]
    bad = {host: problem for host, problem in told if problem is not None}
    if len(bad) == len(told) > 1:
        logging.getLogger(__name__).warning("all nodes report broken devices, which is not believed: %s", bad)
        return {}
    return bad


@dataclass(frozen=True, slots=True)
class Before:
    """What was known at the start of an attempt. uncorrected: memory errors, by uuid. hosts: where NVML answered.

    problems: what NVML had against the GPUs of a node already, by its name.
    """

    uncorrected: Mapping[str, int]
    hosts: frozenset[str]
    problems: Mapping[str, frozenset[str]] = field(default_factory=dict)


def read_before(attempts: Path) -> Before:
    """Of the newest attempt, as its ranks recorded it."""
    newest = max(numbers(attempts), default=0)
    records: list[Mapping[str, Any]] = [
        json.loads(path.read_text()) for path in (attempts / str(newest)).glob("rank-*.json")
    ]
    return Before(
        {record["uuid"]: record["uncorrected"] for record in records if record["uncorrected"] is not None},
        frozenset(record["host"] for record in records if record["uuid"] is not None),
        {record["host"]: frozenset(record["problems"]) for record in records if record["problems"]},
    )


def _examine(before: Before, limit_s: float) -> tuple[str, str | None]:
    host = host_name()
    known = before.problems.get(host, frozenset())
    return host, examine_node(before.uncorrected, limit_s, answered=host in before.hosts, known=known)


def _answer(reference: Any) -> tuple[str, str | None] | None:
    """A node that is lost is found by others."""
    try:
        answer: tuple[str, str | None] = ray.get(reference)
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).warning("a node could not try its devices: %s", error)
        return None
    return answer
