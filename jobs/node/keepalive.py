"""Keepalive: every node of a job holds a connection to the first, so a node that is gone is found in seconds.

A process that ends closes its connections; a machine that falls silent is found by TCP's keep-alive, long before
Slurm's own time-out (SlurmdTimeout, 300 s by default).
"""

import hashlib
import hmac
import socket

KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds of silence, seconds between probes, probes without an answer."""
UNACKNOWLEDGED_MS = 20_000
GREETING_BYTES = 128


def greeting(secret: str, node: int) -> bytes:
    """What a node says first: its number, and that it knows the secret of the attempt."""
    proof = hmac.new(secret.encode(), str(node).encode(), hashlib.sha256).hexdigest()
    return f"{node} {proof}".encode().ljust(GREETING_BYTES)


class KeepaliveClient:
    """The connection of a node to the first one.

    Raises:
        OSError: the first node does not answer.
    """

    def __init__(self, address: tuple[str, int], secret: str, node: int) -> None:
        self._connection = socket.create_connection(address, timeout=10)
        _keep_alive(self._connection)
        self._connection.sendall(greeting(secret, node))

    def is_lost(self) -> bool:
        """Whether the first node is gone."""
        return _received(self._connection) == b""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class KeepaliveServer:
    """The connections of all nodes to the first one, accepted on a socket that listens already."""

    def __init__(self, listener: socket.socket, secret: str) -> None:
        self._listener, self._secret = listener, secret
        self._listener.setblocking(False)
        self._unknown: list[socket.socket] = []
        self._connections: dict[int, socket.socket] = {}

    def lost(self) -> list[int]:
        """Nodes whose connection has ended."""
        self._accept()
        return sorted(node for node, connection in self._connections.items() if _received(connection) == b"")

    def connected(self) -> list[int]:
        """Nodes that have connected, gone or not."""
        self._accept()
        return sorted(self._connections)

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._unknown, *self._connections.values()):
            connection.close()

    def _accept(self) -> None:
        while (connection := _accepted(self._listener)) is not None:
            connection.setblocking(False)
            self._unknown.append(connection)
        for connection in list(self._unknown):
            if (said := _received(connection)) is None:
                continue
            self._unknown.remove(connection)
            number = said.split(b" ")[0]
            if number.isdigit() and hmac.compare_digest(said, greeting(self._secret, int(number))):
                _keep_alive(connection)
                self._connections[int(number)] = connection
            else:
                connection.close()


def _accepted(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None


def _received(connection: socket.socket) -> bytes | None:
    """What has come; None when nothing has, nothing (b"") when the other side is gone."""
    try:
        return connection.recv(GREETING_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _keep_alive(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
