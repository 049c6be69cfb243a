"""How the nodes of an attempt of a Slurm job find each other: small files in a shared folder, one writer each."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from channels.files import write_atomically, write_json

POLL_S = 0.2


class BootstrapError(RuntimeError):
    """The nodes of an allocation did not become one Ray cluster; says which node and why."""


class BadNodeError(BootstrapError):
    """The fault is this node's own: the next attempt leaves it out."""


class BadDeviceError(BadNodeError):
    """A device of this node broke while it trained."""


@dataclass(frozen=True, slots=True)
class JobNode:
    """One node of an attempt of a Slurm job. restart: requeues of the job so far. rank: of the node, from 0."""

    job_id: int
    restart: int
    rank: int
    hosts: tuple[str, ...]

    @property
    def host(self) -> str:
        """Name of this node in Slurm."""
        return self.hosts[self.rank]

    @property
    def attempt(self) -> str:
        """Name of this attempt of the job."""
        return f"{self.job_id}-{self.restart}"


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The files of one attempt, as one of its nodes sees them."""

    folder: Path
    node: JobNode

    @property
    def token(self) -> Path:
        """The secret of the attempt's Ray; mode 0600."""
        return self.folder / "token"

    @property
    def head(self) -> Path:
        """Address of the Ray head."""
        return self.folder / "head.json"

    @property
    def end(self) -> Path:
        """How the attempt ended; node 0 writes it and every node follows it."""
        return self.folder / "end.json"

    def log(self, name: str) -> Path:
        """Output of a process on this node."""
        return self.folder / f"{name}-{self.node.rank}.log"

    def announce_token(self, secret: str) -> None:
        """Keep the secret, readable by its owner alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.token, secret, mode=0o600)

    def announce_head(self, address: str, keepalive: tuple[str, int]) -> None:
        """Write where the Ray head answers, and where node 0 accepts keepalive connections."""
        write_json(self.head, {"address": address, "host": self.node.host, "keepalive": keepalive})

    def announce_end(self, outcome: str, code: int, cause: str | None) -> None:
        """Write how the attempt ended, for every node and for whoever looks at the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.end, {"outcome": outcome, "code": code, "cause": cause, "time": time.time()})

    def mark(self, state: str, rank: int | None = None, **details: Any) -> None:
        """Write that this node, or another that cannot do so itself, is ``ready``, has ``failed`` or has ``left``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = self.node.rank if rank is None else rank
        content = {"host": self.node.hosts[number], "time": time.time(), **details}
        write_json(self.folder / f"{state}-{number}.json", content)

    def is_superseded(self) -> bool:
        """Whether Slurm has begun a later attempt: it gave this node up and could not reach it."""
        return (self.folder.parent / replace(self.node, restart=self.node.restart + 1).attempt).exists()

    def earlier_end_s(self) -> float | None:
        """When node 0 wrote how the attempt before ended, seconds since 1970; None where it could not."""
        end = self.folder.parent / replace(self.node, restart=self.node.restart - 1).attempt / self.end.name
        return float(self.read(end)["time"]) if end.exists() else None

    def marked(self, state: str) -> set[int]:
        """Nodes of which this was written."""
        return {number for number in range(len(self.node.hosts)) if (self.folder / f"{state}-{number}.json").exists()}

    def missing(self, state: str) -> list[str]:
        """Names of the other nodes."""
        marked = self.marked(state)
        return [host for number, host in enumerate(self.node.hosts) if number not in marked]

    def other_versions(self) -> list[str]:
        """Ready nodes whose versions are not those of node 0: ``host: package 1.0, not 2.0``."""
        mine = self.read(self.folder / "ready-0.json").get("versions", {})
        found = []
        for number in sorted(self.marked("ready")):
            entry = self.read(self.folder / f"ready-{number}.json")
            theirs = entry.get("versions", {})
            found += [f"{entry['host']}: {name} {theirs.get(name)}, not {mine[name]}" for name in mine
                     if theirs.get(name) != mine[name]]  # fmt: skip
        return found

    def failures(self) -> list[str]:
        """``host: cause`` of every node that failed."""
        found = [self.read(self.folder / f"failed-{number}.json") for number in sorted(self.marked("failed"))]
        return [f"{entry['host']}: {entry.get('cause', 'failed')}" for entry in found]

    def fail(self, error: Exception, rank: int | None = None) -> None:
        """Mark a node as failed, and as bad where the error says so; its first failure counts."""
        if (self.node.rank if rank is None else rank) in self.marked("failed"):
            return
        bad, device = isinstance(error, BadNodeError), isinstance(error, BadDeviceError)
        self.mark("failed", rank, cause=str(error), bad=bad, device=device)

    def bad_hosts(self) -> set[str]:
        """Nodes found bad in this attempt."""
        return {str(entry["host"]) for entry in map(self.read, self.folder.glob("failed-*.json")) if entry.get("bad")}

    def bad_hosts_so_far(self) -> set[str]:
        """Nodes found bad in any attempt of the job."""
        attempts = self.folder.parent.glob(f"{self.node.job_id}-*")
        return set[str]().union(*(replace(self, folder=folder).bad_hosts() for folder in attempts))

    def attempts_with_bad_devices(self) -> int:
        """In how many attempts of the job a device broke."""
        folders = self.folder.parent.glob(f"{self.node.job_id}-*")
        return sum(any(self.read(path).get("device") for path in folder.glob("failed-*.json")) for folder in folders)

    def read(self, path: Path) -> dict[str, Any]:
        """One of the files."""
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def wait(self, ready: Callable[[], bool], checks: Sequence[Callable[[], None]], late: Callable[[], str],
             timeout_s: float) -> None:  # fmt: skip
        """Poll until ``ready``.

        Raises:
            BootstrapError: another node failed, a check raised, or it took too long (``late`` says what is missing).
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if failures := self.failures():
                raise BootstrapError("; ".join(failures))
            for check in checks:
                check()
            if time.monotonic() > deadline:
                raise BootstrapError(f"{late()} within {timeout_s:.0f} s")
            time.sleep(POLL_S)
