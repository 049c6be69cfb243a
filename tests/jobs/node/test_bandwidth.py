"""Bandwidth between real gloo ranks, by a clock that says how long each exchange took; one stands for a slow wire."""

from types import SimpleNamespace

import pytest

from jobs.node import bandwidth
from jobs.node.bandwidth import have_rails, measure, own_rail, rounds
from jobs.node.rank_result import Bandwidth, Rail
from tests.ranks import RankPools


def measured(hosts: list[str], slow: str | int | None) -> Bandwidth:
    import torch
    import torch.distributed as dist

    rank, true, seconds = dist.get_rank(), bandwidth.exchange, 0.0

    def exchange(payload: torch.Tensor, received: torch.Tensor, partner: int) -> None:
        nonlocal seconds
        true(payload, received, partner)
        seconds += 1.0 if slow in (rank, partner, hosts[rank], hosts[partner]) else 0.01

    def perf_counter() -> float:
        nonlocal seconds
        seconds += 0.001
        return seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "exchange", exchange)
        patch.setattr(bandwidth, "time", SimpleNamespace(perf_counter=perf_counter))
        return measure(torch.device("cpu"), hosts[rank], f"mlx5_{rank}", megabytes=1)


def test_the_slow_node_is_named_by_every_rank(ranks: RankPools) -> None:
    found = ranks(4, measured, ["n1", "n2", "n3", "n4"], "n3")
    assert all(result == found[0] for result in found)
    assert found[0].slowest == "n3" and found[0].is_suspicious
    assert found[0].world == 4 and found[0].all_reduce_gb_s > 0
    assert set(found[0].nodes) == {"n1", "n2", "n3", "n4"}


def test_every_rail_is_measured_and_a_slow_one_is_found_behind_a_fast_node(ranks: RankPools) -> None:
    found = ranks(4, measured, ["n1", "n1", "n2", "n2"], 3)[0]
    assert [(rail.host, rail.rank, rail.local, rail.nic) for rail in found.rails] == [
        ("n1", 0, 0, "mlx5_0"), ("n1", 1, 1, "mlx5_1"), ("n2", 2, 0, "mlx5_2"), ("n2", 3, 1, "mlx5_3"),
    ]  # fmt: skip
    by_rank = {rail.rank: rail.gb_s for rail in found.rails}
    assert max(by_rank[1], by_rank[3]) < 0.1 * min(by_rank[0], by_rank[2])
    assert min(found.nodes.values()) > 0.1 * by_rank[0], "the leaders alone do not show it"


@pytest.mark.parametrize(
    ("hosts", "has", "rail_of_last"),
    [(["a", "a", "b", "b"], True, [1, 3]), (["a", "b", "a", "b"], True, [2, 3]), (["a", "b"], False, [0, 1]),
     (["a", "a"], False, [1]), (["a", "a", "b"], False, [0, 2])],
)  # fmt: skip
def test_a_rail_joins_the_same_rank_of_every_node(hosts: list[str], has: bool, rail_of_last: list[int]) -> None:
    assert have_rails(hosts) is has and own_rail(hosts, len(hosts) - 1) == rail_of_last


def test_slow_rails_are_those_far_below_the_median() -> None:
    rails = tuple(Rail(f"n{node}", node, 0, None, rate) for node, rate in enumerate((9.0, 10.0, 3.0, 1.0, 11.0)))
    nodes = {rail.host: 9.0 for rail in rails}
    assert [rail.rank for rail in Bandwidth(5, 1.0, nodes, rails).slow_rails] == [3, 2]
    assert Bandwidth(2, 1.0, {"n0": 9.0, "n1": 9.0}, rails[:2]).slow_rails == []
    assert str(rails[0]) == "n0 rank 0 (local 0, NIC unknown)"


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
