"""What Ray starts for a worker: asks the fork server for the worker, and becomes Ray's own where there is none.

Ray runs this in place of its ``setup_worker.py``, with the same arguments. It imports little, so that it costs little.
"""

import json
import os
import socket
import sys
from typing import Any

SERVER = "WAVETRAIN_FORK_SERVER"
"""Environment variable: where the fork server's socket lies."""
SOCKET = "fork"
CONTEXT = "--serialized-runtime-env-context="
LANGUAGE = "--language="
BYTES = 8


def main() -> None:
    """Called by Ray."""
    request = worker(sys.argv[1:])
    if request is None or not _ask(request):
        # Ray's own stands beside the worker that it sets up.
        own = next(argument for argument in sys.argv if argument.endswith("default_worker.py"))
        setup = os.path.join(os.path.dirname(own), "setup_worker.py")  # noqa: PTH118, PTH120
        os.execv(sys.executable, [sys.executable, setup, *sys.argv[1:]])


def worker(arguments: list[str]) -> dict[str, Any] | None:
    """The worker that is asked for; None where it needs more than a fork and environment variables."""
    context = next((text.removeprefix(CONTEXT) for text in arguments if text.startswith(CONTEXT)), "{}")
    settings = json.loads(context)
    variables = settings.pop("env_vars", None) or {}
    executable = settings.pop("py_executable", None) or sys.executable
    if executable != sys.executable or any(settings.values()) or any("$" in value for value in variables.values()):
        return None
    rest = [text for text in arguments if not text.startswith((CONTEXT, LANGUAGE))]
    if not rest or not rest[0].endswith("default_worker.py"):
        return None
    return {"arguments": rest, "environment": {**os.environ, **variables}, "folder": os.getcwd()}  # noqa: PTH109


def _ask(request: dict[str, Any]) -> bool:
    """Whether the worker runs now."""
    text = json.dumps(request).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(os.environ[SERVER])
            socket.send_fds(connection, [len(text).to_bytes(BYTES, "big")], [0, 1, 2])
            connection.sendall(text)
            return connection.recv(1) == b"1"
    except (OSError, KeyError):
        return False


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What :func:`_ask` has sent: the worker, and its standard files.

    Raises:
        ConnectionError: the asking process ended before it had sent all.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, BYTES, 3)
    head += _read(connection, BYTES - len(head))
    return json.loads(_read(connection, int.from_bytes(head, "big"))), descriptors


def _read(connection: socket.socket, size: int) -> bytes:
    text = b""
    while len(text) < size:
        part = connection.recv(size - len(text))
        if not part:
            raise ConnectionError("the asking process ended")
        text += part
    return text


if __name__ == "__main__":
    main()
