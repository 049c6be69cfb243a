"""Bandwidth between real gloo ranks; one of them stands for a node with a slow wire."""

import time
from typing import Any

import pytest

from jobs.node import bandwidth
from jobs.node.bandwidth import measure, rounds
from jobs.node.rank_result import Bandwidth
from tests.ranks import RankPools


def measured(hosts: list[str], slow: str | None) -> Bandwidth:
    import torch
    import torch.distributed as dist

    host, true = hosts[dist.get_rank()], bandwidth.exchange

    def exchange(*arguments: Any) -> None:
        time.sleep(1.0 if host == slow else 0.0)
        true(*arguments)

    bandwidth.exchange = exchange
    try:
        return measure(torch.device("cpu"), host, megabytes=1)
    finally:
        bandwidth.exchange = true


def test_the_slow_node_is_named_by_every_rank(ranks: RankPools) -> None:
    found = ranks(4, measured, ["n1", "n2", "n3", "n4"], "n3")
    assert all(result == found[0] for result in found)
    assert found[0].slowest == "n3" and found[0].is_suspicious
    assert found[0].world == 4 and found[0].all_reduce_gb_s > 0
    assert set(found[0].nodes) == {"n1", "n2", "n3", "n4"}


def test_ranks_of_one_node_are_not_compared(ranks: RankPools) -> None:
    found = ranks(2, measured, ["n1", "n1"], None)[0]
    assert found.nodes == {} and found.slowest is None and not found.is_suspicious


def test_two_nodes_alone_cannot_tell_which_is_slow() -> None:
    found = Bandwidth(world=4, all_reduce_gb_s=1.0, nodes={"n1": 0.1, "n2": 0.1})
    assert found.slowest is None


def test_equal_nodes_are_not_suspicious() -> None:
    found = Bandwidth(world=4, all_reduce_gb_s=1.0, nodes={"n1": 9.0, "n2": 10.0, "n3": 8.0})
    assert found.slowest == "n3" and not found.is_suspicious


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_everybody_meets_everybody_once(count: int) -> None:
    played = rounds(list(range(count)))
    for pairs in played:
        assert len({player for pair in pairs for player in pair}) == 2 * len(pairs)
    met = sorted(tuple(sorted(pair)) for pairs in played for pair in pairs)
    assert met == [(one, other) for one in range(count) for other in range(one + 1, count)]
