"""How many ranks a run has while nodes come and go: the most that divide the partitions."""

import socket
from typing import Any

import ray

ANSWER_S = 1.0
"""Seconds in which a node that is alive accepts a connection."""


def largest_world(available: int, partitions: int) -> int:
    """The largest world size up to ``available`` that divides the partitions; 0 where nothing is available."""
    return next((world for world in range(min(available, partitions), 0, -1) if partitions % world == 0), 0)


def living_nodes() -> dict[str, dict[str, float]]:
    """Resources by node of the cluster, without nodes that do not answer.

    Ray notices the loss of a node seconds after its workers failed; a group planned on it would never start.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"]: node["Resources"] for node in nodes if _answers(node)}


def _answers(node: dict[str, Any]) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_S):
            return True
    except OSError:
        return False
