"""Which nodes of Ray ranks are placed on after a device broke, and what is said where too few are left."""

import pickle
from pathlib import Path

import pytest
from ray._raylet import RAY_NODE_ID_KEY, node_labels_match_selector

from orchestrator.control.ray_train import nodes as nodes_module
from orchestrator.control.ray_train.nodes import (
    NODE_ID,
    LeftOut,
    Node,
    Wanted,
    count_ranks,
    named,
    selector_without,
    shortage,
)
from orchestrator.run.events import EventWriter

OF_RANK = {"CPU": 2, "GPU": 1}
WHOLE = {"CPU": 16.0, "GPU": 4.0, "memory": 1e9}


def node(host: str, letter: str = "a", **resources: float) -> Node:
    return Node(letter * 56, host, {**WHOLE, **resources})


CLUSTER = [node("n1", "a"), node("n2", "b"), node("n3", "c"), node("head", "d", GPU=0.0)]


@pytest.mark.parametrize(
    ("hosts", "present", "found"),
    [
        (["n2"], ["n1", "n2"], ["n2"]), (["n2.a"], ["n1", "n2"], ["n2"]), (["n2"], ["n1.a", "n2.a"], ["n2.a"]),
        (["n1.a"], ["n1.a", "n1.b"], ["n1.a"]), (["n9"], ["n1", "n2"], []), (["n1"], ["n1", "n1", "n2"], ["n1", "n1"]),
        (["n1", "n2.a"], ["n1", "n2", "n3"], ["n1", "n2"]), (["n1.a"], ["n1.b", "n1.c"], []),
        (["n1.a"], ["n1.b"], []), (["n1"], ["n1.b", "n1.c"], []), (["n1"], ["n1.b", "n1.b", "n2.b"], ["n1.b", "n1.b"]),
        (["n1", "n1.a"], ["n1.a", "n1.b"], ["n1.a"]), (["10.0.0"], ["10.0.0.1"], []), (["n1"], ["n10"], []),
    ],
)  # fmt: skip
def test_nodes_are_found_by_their_names(hosts: list[str], present: list[str], found: list[str]) -> None:
    assert [node.host for node in named(hosts, [node(host) for host in present])] == found


@pytest.mark.parametrize("bad", [["n2"], ["n1", "n3"], ["n1", "n2", "n3", "head"]])
def test_ray_takes_the_selector_for_all_nodes_but_these(bad: list[str]) -> None:
    selector = selector_without(named(bad, CLUSTER))
    chosen = [node.host for node in CLUSTER if node_labels_match_selector({RAY_NODE_ID_KEY: node.id}, selector)]
    assert chosen == [node.host for node in CLUSTER if node.host not in bad]


def test_where_no_node_is_left_out_there_is_no_selector() -> None:
    assert selector_without([]) == {} and NODE_ID == RAY_NODE_ID_KEY


@pytest.mark.parametrize(
    ("resources", "count"),
    [({}, 4), ({"CPU": 7.0}, 3), ({"GPU": 0.0}, 0), ({"GPU": 0.5}, 0)],
)
def test_ranks_that_find_room_on_a_node(resources: dict[str, float], count: int) -> None:
    assert count_ranks([node("n1", **resources)], OF_RANK) == count
    assert count_ranks([node("n1", **resources), node("n2")], OF_RANK) == count + 4


@pytest.mark.parametrize(("least", "partitions", "left"), [(8, 8, None), (1, 16, None), (9, 16, 8), (6, 6, None)])
def test_a_run_goes_on_where_enough_ranks_find_room_on_the_other_nodes(
    least: int, partitions: int, left: int | None
) -> None:
    said = shortage(Wanted(least, partitions, OF_RANK), CLUSTER, ["n2"])
    assert (said is None) if left is None else (said is not None and f"room for {left} ranks" in said)


def test_what_is_said_where_too_few_nodes_are_left() -> None:
    wanted = Wanted(12, 12, OF_RANK)
    assert shortage(wanted, CLUSTER, ["n2"]) == (
        "without n2 there is room for 6 ranks, and the run needs 12: mend or replace n2, or set scale.workers to 6, "
        "then give the same command again"
    )
    assert shortage(wanted, CLUSTER[1:2], ["n2"]) == (
        "without n2 there is room for 0 ranks, and the run needs 12: mend or replace n2, then give the same command "
        "again"
    )


def test_the_ranks_that_fit_must_divide_the_partitions_too() -> None:
    """Of 8 that fit a run of 3 to 12 ranks and 9 partitions could use 3, and one of 4 to 12 none."""
    assert shortage(Wanted(3, 9, OF_RANK), CLUSTER, ["n2"]) is None
    assert "room for 3 ranks" in str(shortage(Wanted(4, 9, OF_RANK), CLUSTER, ["n2"]))


def record(path: Path, **left_out: str) -> None:
    with EventWriter(path) as book:
        book.write("failure", failure={}, retry=True, wait_s=0.0, left_out=left_out)


def test_what_is_left_out_is_read_from_now_on_and_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def known() -> list[Node]:
        asked.append(None)
        return CLUSTER

    monkeypatch.setattr(nodes_module, "known_nodes", known)
    record(tmp_path / "failures.jsonl", n1="mended since")
    left_out = pickle.loads(pickle.dumps(LeftOut(tmp_path / "failures.jsonl")))
    assert left_out.selector() == {} and not asked, "the cluster is not asked where no device broke"
    record(tmp_path / "failures.jsonl", n2="GPU 4: must be reset")
    assert left_out.selector() == {NODE_ID: f"!in({'b' * 56})"}
    record(tmp_path / "failures.jsonl", n3="GPU 0: lost")
    assert left_out.selector() == {NODE_ID: f"!in({'b' * 56},{'c' * 56})"} and left_out.hosts() == {"n2", "n3"}
