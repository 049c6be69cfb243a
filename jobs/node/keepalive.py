"""Keepalive: every node of a job holds a connection to the first, so a node that is gone is found in seconds.

A process that ends closes its connections; a machine that falls silent is found by TCP's keep-alive, long before
Slurm's own time-out (SlurmdTimeout, 300 s by default).
"""

import hashlib
import hmac
import socket

PROBES = 3
"""Probes without an answer after which a machine counts as gone."""
GREETING_BYTES = 128


def greeting(secret: str, node: int) -> bytes:
    """What a node says first: its number, and that it knows the secret of the attempt."""
    proof = hmac.new(secret.encode(), str(node).encode(), hashlib.sha256).hexdigest()
    return f"{node} {proof}".encode().ljust(GREETING_BYTES)


class KeepaliveClient:
    """The connection of a node to the first one. silence_s: after which a machine counts as gone.

    Raises:
        OSError: the first node does not answer.
    """

    def __init__(self, address: tuple[str, int], secret: str, node: int, silence_s: int) -> None:
        self._connection = socket.create_connection(address, timeout=10)
        _keep_alive(self._connection, silence_s)
        self._connection.sendall(greeting(secret, node))

    def is_lost(self) -> bool:
        """Whether the first node is gone."""
        return _received(self._connection) == b""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class KeepaliveServer:
    """The connections of all nodes to the first one, accepted on a socket that listens already.

    silence_s: after which a machine counts as gone.
    """

    def __init__(self, listener: socket.socket, secret: str, silence_s: int) -> None:
        self._listener, self._secret, self._silence_s = listener, secret, silence_s
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
                _keep_alive(connection, self._silence_s)
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


def probing(silence_s: int) -> dict[int, int]:
    """Options of TCP: seconds of silence before the first probe and between two, and how many; together silence_s."""
    between = max(silence_s // (PROBES + 1), 1)
    return {
        socket.TCP_KEEPIDLE: between, socket.TCP_KEEPINTVL: between, socket.TCP_KEEPCNT: PROBES,
        # Data that is sent is not probed for, so that it needs the same limit.
        socket.TCP_USER_TIMEOUT: 1000 * silence_s,
    }  # fmt: skip


def _keep_alive(connection: socket.socket, silence_s: int) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in probing(silence_s).items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
