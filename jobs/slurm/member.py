"""Every node of an attempt but the first: keep Ray alive until node 0 announces the end."""

import time

from jobs.node.keepalive import KeepaliveClient
from jobs.node.ray_node import RayNode
from jobs.node.rendezvous import POLL_S, BootstrapError, Rendezvous
from jobs.slurm.signals import SlurmSignals


class Member:
    """A node whose Ray has joined that of node 0.

    Raises:
        BootstrapError: node 0 does not answer.
    """

    def __init__(self, rendezvous: Rendezvous, node: RayNode, signals: SlurmSignals) -> None:
        self.rendezvous, self.node, self.signals = rendezvous, node, signals
        host, port = rendezvous.read(rendezvous.head)["keepalive"]
        try:
            secret, silence_s = rendezvous.token.read_text(), node.profile.time_limits.silence_s
            self.keepalive = KeepaliveClient((host, port), secret, rendezvous.node.rank, silence_s)
        except OSError as error:
            raise BootstrapError(
                f"node 0 ({rendezvous.node.hosts[0]}) does not answer at {host}:{port}: {error}"
            ) from None

    def run(self, address: str) -> None:
        """Wait for the end.

        Raises:
            BootstrapError: Ray ended on this node before that, or node 0 is gone.
        """
        deadline = None
        while not self.rendezvous.end.exists():
            try:
                self._check()
            except BootstrapError:
                # The head ends its Ray right after its announcement, which may take a while to be seen here.
                deadline = deadline or time.monotonic() + self.node.profile.time_limits.file_s
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _check(self) -> None:
        if self.signals.terminate:
            # Slurm's SIGTERM goes to Ray as well: that it ends now is not this node's fault.
            raise BootstrapError("ended by Slurm")
        self.node.check()
        if self.keepalive.is_lost() or self.rendezvous.is_superseded():
            raise BootstrapError(f"node 0 ({self.rendezvous.node.hosts[0]}) does not answer any more")
