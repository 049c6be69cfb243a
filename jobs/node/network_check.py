"""Starting the ranks' check on one node, alone or as part of a job, and judging what they found."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.node import own_processes
from jobs.node.rank_result import BAD_DEVICE, Bandwidth, Rail

POLL_S = 0.1


class RankCheckError(RuntimeError):
    """A rank's check failed. bad_device: the fault is this node's own."""

    def __init__(self, text: str, *, bad_device: bool) -> None:
        super().__init__(text)
        self.bad_device = bad_device


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks of a check and this node's part: ``here`` of ``world``, the first of them ``first``.

    limit_s: for the whole check. scan: backend of the selective scan that the job asks for and must run; empty: none.
    nic_binding: of the profile.
    """

    address: str
    port: int
    world: int
    first: int
    here: int
    host: str
    device: str
    limit_s: float
    scan: str = ""
    nic_binding: str = "none"

    def environment(self, local: int) -> dict[str, str]:
        """Of one rank."""
        return {
            "MASTER_ADDR": self.address, "MASTER_PORT": str(self.port), "WORLD_SIZE": str(self.world),
            "RANK": str(self.first + local), "LOCAL_RANK": str(local), "WAVETRAIN_HOST": self.host,
            "WAVETRAIN_DEVICE": self.device, "WAVETRAIN_LIMIT_S": str(self.limit_s),
            "WAVETRAIN_SCAN": self.scan, "WAVETRAIN_NIC_BINDING": self.nic_binding,
        }  # fmt: skip


def run_ranks(
    group: Group, result: Path, log: Callable[[int], Path], environment: Mapping[str, str],
    watch: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Run this node's ranks to their end. log: where each prints. watch: raises to end the wait.

    Raises:
        RankCheckError: a rank failed or did not end in time.
    """
    command = [sys.executable, "-m", "jobs.node.rank_check", str(result)]
    children = [
        own_processes.start(command, {**environment, **group.environment(local)}, log(local))
        for local in range(group.here)
    ]
    try:
        _wait(children, log, watch, group.limit_s)
    finally:
        for child in children:
            own_processes.end(child, grace_s=0.0)


def _wait(
    children: "list[subprocess.Popen[bytes]]", log: Callable[[int], Path], watch: Callable[[], None], limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while (codes := [child.poll() for child in children]) != [0] * len(children):
        for local, code in enumerate(codes):
            if code:
                said = [line for line in log(local).read_text(errors="replace").splitlines() if line.strip()]
                text = f"local rank {local}: {said[-1] if said else code} (see {log(local)})"
                raise RankCheckError(text, bad_device=code == BAD_DEVICE)
        if time.monotonic() > deadline:
            raise RankCheckError(f"the ranks have not exchanged data in {limit_s:.0f} s", bad_device=False)
        watch()
        time.sleep(POLL_S)


def measure_here(ranks: int, device: str, limit_s: float) -> Bandwidth:
    """Between ranks on this machine alone, over loopback; within ``limit_s`` seconds.

    Raises:
        RankCheckError: it failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = Group("127.0.0.1", port, ranks, 0, ranks, socket.gethostname(), device, limit_s)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "network.json"
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
        run_ranks(group, result, lambda local: Path(folder) / f"{local}.log", os.environ | loopback)
        return read(result)


def read(result: Path) -> Bandwidth:
    """What rank 0 wrote."""
    content = json.loads(result.read_text())
    return Bandwidth(**{**content, "rails": tuple(Rail(**rail) for rail in content["rails"])})


def describe(found: Bandwidth) -> str:
    """One line."""
    line = f"all-reduce over {found.world} ranks {found.all_reduce_gb_s:.2f} GB/s"
    if found.slowest:
        line += f"; slowest node {found.slowest}, {found.nodes[found.slowest]:.2f} GB/s with the best of the others"
    if found.rails:
        slowest = min(found.rails, key=lambda rail: rail.gb_s)
        line += f"; slowest of {len(found.rails)} rails {slowest}, {slowest.gb_s:.2f} GB/s"
    return line
