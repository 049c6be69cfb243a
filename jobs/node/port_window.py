"""Ports of one Ray node: a window that follows from the job, kept from other jobs until the node's Ray has ended."""

import socket
from dataclasses import dataclass

import psutil

from channels.errors import UserError

FIRST = 20_000
"""Above the ports Ray reserves by default, below those that Linux hands out by itself."""
WIDTH = 200
WINDOWS = 60
FIXED = 16
"""Ports of a window that are for one service each; the others are for Ray's workers."""


@dataclass(frozen=True, slots=True)
class PortWindow:
    """Consecutive ports on one address; we listen on the first, so that no other job takes the window."""

    first: int
    guard: socket.socket

    @property
    def gcs(self) -> int:
        """Where the head answers the other nodes."""
        return self.first + 1

    @property
    def node_manager(self) -> int:
        """Where a raylet answers."""
        return self.first + 2

    @property
    def rank_check(self) -> int:
        """Rendezvous of the ranks that check the network before training."""
        return self.first + 9

    @property
    def options(self) -> list[str]:
        """Options of ``ray start`` that head and other nodes share."""
        names = ("object-manager", "runtime-env-agent", "dashboard-agent-listen", "dashboard-agent-grpc")
        ports = {f"{name}-port": self.first + 3 + number for number, name in enumerate(names)}
        ports |= {"node-manager-port": self.node_manager, "metrics-export-port": self.first + 7}
        ports |= {"min-worker-port": self.first + FIXED, "max-worker-port": self.first + WIDTH - 1}
        return [f"--{name}={port}" for name, port in ports.items()]

    @property
    def head_options(self) -> list[str]:
        """Further options of the head."""
        return [f"--port={self.gcs}", f"--ray-client-server-port={self.first + 8}"]

    def release(self) -> None:
        """Let others have the window."""
        self.guard.close()


def claim(address: str, job_id: int, node: int) -> PortWindow:
    """The first free window, beginning with the one that the job and the node number suggest.

    Raises:
        UserError: every window has a port in use.
    """
    for turn in range(WINDOWS):
        first = FIRST + WIDTH * ((job_id + 17 * node + turn) % WINDOWS)
        guard = _hold(address, first)
        if guard is None:
            continue
        if all(_is_free(address, port) for port in range(first + 1, first + WIDTH)):
            return PortWindow(first, guard)
        guard.close()
    raise UserError(
        f"no {WIDTH} consecutive ports are free between {FIRST} and {FIRST + WIDTH * WINDOWS}",
        where=address,
        mend="see what listens there: ss -ltnp",
    )


def _hold(address: str, port: int) -> socket.socket | None:
    guard = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        guard.bind((address, port))
        guard.listen(128)
    except OSError:
        guard.close()
        return None
    return guard


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Ray's own servers do: a port whose last connections are only winding down may be taken again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def answers(address: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def interface_address(interface: str | None) -> str:
    """IPv4 address of a network interface of this machine.

    Raises:
        UserError: no interface given, not there, or without an IPv4 address.
    """
    where = "cluster profile: network.interface"
    found: dict[str, str] = {
        name: str(entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    }
    host, known = socket.gethostname(), ", ".join(sorted(found)) or "none"
    if interface is None:
        raise UserError("a Slurm job needs an interface", where=where, mend=f"name one; on {host} are {known}")
    if interface not in found:
        raise UserError(f"{host} has no address on {interface!r}", where=where, mend=f"there are {known}")
    return found[interface]
