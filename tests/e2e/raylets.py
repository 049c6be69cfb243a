"""A Ray cluster of several raylets on this machine, driven from a process of its own.

Ray keeps how it authenticates for the life of a process, and its raylets end with the process that started them: so
killing the driver leaves nothing behind, whatever state the cluster is in.
"""

import multiprocessing
import os
import secrets
import shutil
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from channels.files import write_atomically
from orchestrator.control.ray_train.environment import NODE_CHECKS

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 80 * 2**20
TIMEOUT_S = 200


class Raylets:
    """The cluster as its driver sees it. nodes: ``ray.cluster_utils`` nodes, the head first."""

    def __init__(self, folder: Path, count: int) -> None:
        write_atomically(folder / "token", secrets.token_hex(32), mode=0o600)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), **NODE_CHECKS}
        import ray
        from ray._common.utils import get_default_ray_temp_dir
        from ray.cluster_utils import Cluster

        from orchestrator.control.ray_train.lean_node import lean_nodes

        # Where Cluster writes its address, whatever folder it works in.
        Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)
        size = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
        head = {**size, "include_dashboard": False, "temp_dir": str(folder)}
        self.ray, self._size = ray, size
        with lean_nodes():
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
            more = [self.cluster.add_node(wait=False, **size) for _ in range(count - 1)]
        self.nodes = [self.cluster.head_node, *more]
        self._wait_for_nodes()
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def node_id(self, number: int) -> str:
        """Ray's id of a node."""
        return str(self.nodes[number].node_id)

    def add_node(self) -> None:
        """One more raylet."""
        from orchestrator.control.ray_train.lean_node import lean_nodes

        with lean_nodes():
            self.nodes.append(self.cluster.add_node(wait=False, **self._size))
        self._wait_for_nodes()

    def _wait_for_nodes(self) -> None:
        self.cluster.wait_for_nodes(timeout=TIMEOUT_S / 2)

    def kill_node(self, number: int) -> None:
        """SIGKILL for a raylet and all its workers."""
        self.cluster.remove_node(self.nodes[number], allow_graceful=False)

    def stop(self) -> None:
        """End everything."""
        self.ray.shutdown()
        self.cluster.shutdown()


def _drive(connection: Connection, folder: Path, count: int) -> None:
    raylets = None
    try:
        raylets = Raylets(folder, count)
        connection.send(("ok", None))
        while (case := connection.recv()) is not None:
            function, arguments = case
            try:
                connection.send(("ok", function(raylets, *arguments)))
            except Exception:
                connection.send(("error", traceback.format_exc()))
    finally:
        if raylets is not None:
            raylets.stop()


class RayletsProcess:
    """Runs ``function(raylets, *arguments)`` in the driver; use it as a context manager."""

    def __init__(self, count: int) -> None:
        # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
        self._folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp" if Path("/tmp").is_dir() else None))
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_drive, args=(theirs, self._folder, count))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "RayletsProcess":
        self._answer()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.is_alive():
            self._connection.send(None)
            self._process.join(30)
        self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result; a failure there fails the test with its traceback."""
        self._connection.send((function, arguments))
        return self._answer()

    def _answer(self) -> Any:
        if not self._connection.poll(TIMEOUT_S):
            self._process.kill()
            raise AssertionError(f"no answer from the cluster's driver for {TIMEOUT_S} s")
        kind, value = self._connection.recv()
        assert kind == "ok", value
        return value


def connection(raylets: Raylets) -> tuple[str, dict[str, str]]:
    """Address of the cluster, and what a client needs to be let in."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    return raylets.cluster.address, {name: os.environ[name] for name in names}


def lose_node(raylets: Raylets, number: int) -> None:
    raylets.kill_node(number)


def add_node(raylets: Raylets) -> None:
    raylets.add_node()
