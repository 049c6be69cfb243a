"""Broken devices of an attempt, as the run's own record of its failures names them."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.control.ray_train.environment import same_host
from orchestrator.run.events import read_events


class DeviceFailures:
    """The failures of a run from now on. record: its ``failures.jsonl``."""

    def __init__(self, record: Path) -> None:
        self._record = record
        _, self._offset = read_events(record)

    def new(self) -> dict[str, str]:
        """Nodes with a broken device that were named since the last call, and what is wrong there."""
        events, self._offset = read_events(self._record, self._offset)
        return {node: problem for event in events for node, problem in event["failure"].get("bad_nodes", {}).items()}


def find_host(name: str, hosts: Sequence[str]) -> int | None:
    """Number of a node by its name, with or without its domain; None where no node or several are called so."""
    host = same_host(name, hosts)
    return None if host is None else hosts.index(host)
