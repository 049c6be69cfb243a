"""Which nodes try their devices after a failure, and which are believed to be broken, without a Ray."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.control.ray_train import device_check, nodes
from orchestrator.control.ray_train.device_check import DeviceCheck
from orchestrator.control.ray_train.failure_book import FailureBook
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.failures import FailuresSection

Cluster = Callable[[Mapping[str, str | None]], list[str]]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Sets what is wrong with the nodes of Ray's cluster; gives a list of those that are asked."""

    def use(problems: Mapping[str, str | None]) -> list[str]:
        asked: list[str] = []
        hosts = {f"{number:056x}": host for number, host in enumerate(problems, 1)}
        entries = [
            {"NodeID": number, "NodeManagerHostname": host, "Resources": {"GPU": 8.0}, "Alive": True}
            for number, host in hosts.items()
        ]

        def options(scheduling_strategy: Any) -> Any:
            host = hosts[scheduling_strategy.node_id]
            asked.append(host)
            return SimpleNamespace(remote=lambda *arguments: (host, problems[host]))

        monkeypatch.setattr(nodes.ray, "nodes", lambda: entries)
        stand_in = SimpleNamespace(
            remote=lambda **settings: lambda function: SimpleNamespace(options=options),
            wait=lambda references, **settings: (references, []),
            get=lambda reference: reference,
        )
        monkeypatch.setattr(device_check, "ray", stand_in)
        return asked

    return use


def test_nodes_that_are_left_out_are_not_asked_and_do_not_count(tmp_path: Path, cluster: Cluster) -> None:
    asked = cluster({"n1": "GPU 4: must be reset", "n2": "GPU 0: lost", "n3": None})
    check = DeviceCheck(tmp_path, 1.0)
    assert check(("n1", "n3")) == {"n2": "GPU 0: lost"} and asked == ["n2"]


def test_the_only_node_that_is_left_is_blamed_too(tmp_path: Path, cluster: Cluster) -> None:
    """One broke long before the other, so that it is no driver that both lack."""
    directory = RunDirectory(tmp_path)
    book = FailureBook(
        directory, FailuresSection(backoff_s=0), DeviceCheck(directory.attempts, 1.0), lacks_without=lambda hosts: None
    )
    cluster({"n1": "GPU 4: must be reset", "n2": None})
    assert book.fail({0: RuntimeError("Connection closed by peer")})
    cluster({"n1": "GPU 4: must be reset", "n2": "GPU 0: lost"})
    book.fail({0: RuntimeError("Connection closed by peer")})
    events, _ = read_events(directory.failures)
    assert [event["failure"]["bad_nodes"].keys() for event in events] == [{"n1"}, {"n2"}]
