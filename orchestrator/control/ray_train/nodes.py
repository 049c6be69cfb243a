"""On which nodes of Ray ranks are placed, and on how many: those that answer, less those whose devices broke."""

import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from orchestrator.control.ray_train.environment import same_host
from orchestrator.run.events import read_events

ANSWER_S = 1.0
"""Seconds in which a node that is alive accepts a connection."""
NODE_ID = "ray.io/node-id"
"""Label that Ray gives every node."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of Ray's cluster. id: Ray's. host: as it calls itself. resources: all that it has, free or not."""

    id: str
    host: str
    resources: Mapping[str, float]


def largest_world(available: int, partitions: int) -> int:
    """The largest world size up to ``available`` that divides the partitions; 0 where nothing is available."""
    return next((world for world in range(min(available, partitions), 0, -1) if partitions % world == 0), 0)


def living_nodes() -> list[Node]:
    """Nodes of the cluster, without those that do not answer.

    Ray notices the loss of a node seconds after its workers failed; a group planned on it would never start.
    """
    return [_node(entry) for entry in ray.nodes() if entry["Alive"] and _answers(entry)]


def known_nodes() -> list[Node]:
    """Nodes that Ray holds for alive: on each of them it may place something."""
    return [_node(entry) for entry in ray.nodes() if entry["Alive"]]


def named(hosts: Collection[str], nodes: Sequence[Node]) -> list[Node]:
    """The nodes with these names, with or without their domains."""
    present = {node.host for node in nodes}
    wanted = {same_host(host, present) for host in hosts}
    return [node for node in nodes if node.host in wanted]


def selector_without(nodes: Sequence[Node]) -> dict[str, str]:
    """Ray's label selector of all nodes but these; empty where there are none to leave out."""
    # Ray takes a space after a comma for a part of the id.
    ids = ",".join(sorted(node.id for node in nodes))
    return {NODE_ID: f"!in({ids})"} if ids else {}


def count_ranks(nodes: Sequence[Node], of_rank: Mapping[str, float]) -> int:
    """How many ranks find room. of_rank: resources that each one needs."""
    needs = {name: amount for name, amount in of_rank.items() if amount > 0}
    return sum(int(min(node.resources.get(name, 0.0) // amount for name, amount in needs.items())) for node in nodes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run needs of a cluster that stands. least: fewest ranks. of_rank: resources of one."""

    least: int
    partitions: int
    of_rank: Mapping[str, float]

    def lacks_without(self, hosts: Collection[str]) -> str | None:
        """What the cluster lacks where these nodes are left out, and how to mend it; None: nothing."""
        return shortage(self, living_nodes(), hosts)


def shortage(wanted: Wanted, nodes: Sequence[Node], hosts: Collection[str]) -> str | None:
    """What nodes lack for a run where those with these names are left out, and how to mend it; None: nothing."""
    bad = named(hosts, nodes)
    world = largest_world(count_ranks([node for node in nodes if node not in bad], wanted.of_rank), wanted.partitions)
    if world >= wanted.least:
        return None
    names = ", ".join(sorted(hosts))
    fewer = f", or set scale.workers to {world}" if world else ""
    return (
        f"without {names} there is room for {world} ranks, and the run needs {wanted.least}: mend or replace {names}"
        f"{fewer}, then give the same command again"
    )


class LeftOut:
    """Nodes that the records of failures leave out from now on; picklable. failures: the run's ``failures.jsonl``."""

    def __init__(self, failures: Path) -> None:
        self._failures = failures
        _, self._offset = read_events(failures)
        self._hosts: set[str] = set()

    def hosts(self) -> frozenset[str]:
        """Their names."""
        events, self._offset = read_events(self._failures, self._offset)
        self._hosts.update(*(event["left_out"] for event in events))
        return frozenset(self._hosts)

    def selector(self) -> dict[str, str]:
        """Ray's label selector of all other nodes; empty where none is left out."""
        hosts = self.hosts()
        return selector_without(named(hosts, known_nodes())) if hosts else {}


def _node(entry: Mapping[str, Any]) -> Node:
    return Node(entry["NodeID"], entry["NodeManagerHostname"], entry["Resources"])


def _answers(entry: Mapping[str, Any]) -> bool:
    try:
        with socket.create_connection((entry["NodeManagerAddress"], entry["NodeManagerPort"]), timeout=ANSWER_S):
            return True
    except OSError:
        return False
