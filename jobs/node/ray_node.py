"""This node's part of a Ray cluster inside a Slurm allocation: ``ray start`` as a child of ours."""

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.node import own_processes
from jobs.node.port_window import PortWindow, answers, claim, interface_address
from jobs.node.rendezvous import BadNodeError, BootstrapError, Rendezvous
from jobs.node.session_folder import SessionFolder
from orchestrator.control.owned_folders import remove_abandoned
from orchestrator.control.ray_train import fork_server
from orchestrator.control.ray_train.environment import HOST, NODE, rank_environment, ray_environment
from orchestrator.control.ray_train.session import OBJECT_STORE_BYTES, RAY_FOLDER
from orchestrator.spec.cluster import Profile

DRAIN_TIMEOUT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""How long a node of Ray lets others take over its work before it ends: here nobody does, the attempt is over."""
END_GRACE_S = 2.0
LEAN_NODE = "orchestrator.control.ray_train.lean_node"
"""Ray's command line, whose nodes have no more than a run needs; it imports Ray."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one node gives to Ray."""

    cpus: int
    gpus: int


def share_of(profile: Profile, workers: int, nodes: int) -> Share:
    """The same for every node: exactly what its part of the workers needs."""
    here = workers // nodes
    return Share(here * profile.cpus_per_worker, here if profile.device == "cuda" else 0)


class RayNode:
    """Head or member; use it as a context manager, at whose end nothing of it is left."""

    def __init__(self, rendezvous: Rendezvous, profile: Profile, share: Share) -> None:
        assert profile.slurm is not None
        self.rendezvous, self.profile, self.share = rendezvous, profile, share
        self.timeout_s = profile.slurm.bootstrap_timeout_s
        self.address = interface_address(profile.network.interface)
        self.window: PortWindow = claim(self.address, rendezvous.node.job_id, rendezvous.node.rank)
        self.session = SessionFolder()
        remove_abandoned(self.session.path.parent)
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For Ray, the controller and the ranks."""
        shell = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        node = self.rendezvous.node
        return (
            shell
            | ray_environment(self.profile.time_limits)
            | rank_environment(self.profile.network, None, shell)
            | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.rendezvous.token)}
            | {DRAIN_TIMEOUT: "0"}
            | {HOST: node.host, NODE: str(node.rank)}
            | fork_server.environment(self.session.path)
            | self.session.memory.environment
        )

    def start(self) -> str:
        """Start this node's Ray and wait until it answers; the address of the head.

        Raises:
            BootstrapError: it did not start, the head is missing, or another node failed.
        """
        self._start_fork_server()
        if self.rendezvous.node.rank == 0:
            self.rendezvous.announce_token(secrets.token_hex(32))
            self._start("--head", "--include-dashboard=false", *self.window.head_options)
            self._wait_for(self.window.gcs)
            head = f"{self.address}:{self.window.gcs}"
            self._wait_for(self.window.node_manager)
            self.rendezvous.announce_head(head, (self.address, self.window.first))
        else:
            missing = f"node 0 ({self.rendezvous.node.hosts[0]}) has not started the Ray head"
            self.rendezvous.wait(self.rendezvous.head.exists, [], lambda: missing, self.timeout_s)
            head = str(self.rendezvous.read(self.rendezvous.head)["address"])
            self._check_reachable(head)
            self._start(f"--address={head}")
            self._wait_for(self.window.node_manager)
        return head

    def check(self) -> None:
        """Raise BootstrapError when this node's Ray has ended, BadNodeError when it had been ready."""
        if self.child is not None and self.child.poll() is not None:
            log = self.rendezvous.log("ray")
            kind = BadNodeError if self.rendezvous.node.rank in self.rendezvous.marked("ready") else BootstrapError
            raise kind(f"Ray ended with status {self.child.returncode}: {_last_line(log)} (see {log})")

    def _start_fork_server(self) -> None:
        """Its imports go on while this node waits for the head, and while Ray starts."""
        if fork_server.serves(self.profile.device):
            self.rendezvous.folder.mkdir(parents=True, exist_ok=True)
            server = fork_server.command(self.session.path, self.profile.device)
            own_processes.start(server, self.environment | fork_server.SETTINGS, self.rendezvous.log("fork_server"))

    def _start(self, *options: str) -> None:
        command = [
            sys.executable, "-m", LEAN_NODE, "start", "--block", *options,
            "--log-color=false", "--disable-usage-stats",
            *self.window.options, f"--node-ip-address={self.address}", f"--temp-dir={self.session.path / RAY_FOLDER}",
            f"--num-cpus={self.share.cpus}", f"--num-gpus={self.share.gpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false",
        ]  # fmt: skip
        self.child = own_processes.start(command, self.environment, self.rendezvous.log("ray"))

    def _wait_for(self, port: int) -> None:
        late = f"Ray does not answer at {self.address}:{port}"
        self.rendezvous.wait(lambda: answers(self.address, port), [self.check], lambda: late, self.timeout_s)

    def _check_reachable(self, head: str) -> None:
        # `ray start` waits for ever for a head that does not answer.
        host, _, port = head.rpartition(":")
        if not answers(host, int(port)):
            raise BootstrapError(f"the Ray head at {head} is not reachable from {self.address}")

    def __enter__(self) -> "RayNode":
        return self

    def __exit__(self, *error: object) -> None:
        own_processes.end_descendants(END_GRACE_S)
        self.window.release()
        self.session.remove()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["no output"])[-1]
