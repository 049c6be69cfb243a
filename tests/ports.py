"""TCP ports for the servers of a test, which no other process gets meanwhile."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port at which nobody listens, until a server that a test starts does; Linux gives it nobody else.

    It stays bound here, so that the kernel passes over it where a process asks for any port or connects to another one.
    A server that names it gets it all the same: servers set SO_REUSEADDR, and a socket that is bound but does not
    listen is then not in their way (socket(7)).
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield int(holder.getsockname()[1])
