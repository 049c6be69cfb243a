"""A node of Ray with what a run needs: no autoscaler, no web pages, no clients, and workers that are forked.

As a program it is Ray's own command line with such nodes: ``python -m orchestrator.control.ray_train.lean_node start``.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import node, services

from orchestrator.control.ray_train import forked_worker, idle_agent

LEFT_OUT = ("start_monitor", "start_log_monitor", "start_api_server", "start_ray_client_server")
"""Methods that start a process nobody here asks for anything."""
AGENT = str(Path(ray.__file__).parent / "dashboard" / "agent.py")
"""What a raylet starts as the dashboard's agent."""
SETUP_WORKER = "setup_worker_path"
"""Setting of a node: the script that Ray starts for a worker."""


class LeanNode(node.Node):  # type: ignore[misc]
    """Ray's own node without the autoscaler's monitor, the monitor of logs and the servers of web pages and clients."""

    def __init__(self, ray_params: Any, **arguments: Any) -> None:
        ray_params.update(**{SETUP_WORKER: str(Path(forked_worker.__file__).resolve())})
        super().__init__(ray_params, **arguments)

    def start_raylet(self, *arguments: Any, **settings: Any) -> None:
        """With an agent that serves nothing."""
        own = services.start_ray_process

        def start(command: list[str], *others: Any, **more: Any) -> Any:
            ours = str(Path(idle_agent.__file__).resolve())
            return own([text.replace(AGENT, ours) for text in command], *others, **more)

        services.start_ray_process = start
        try:
            super().start_raylet(*arguments, **settings)
        finally:
            services.start_ray_process = own

    def start_monitor(self) -> None:
        """Nothing to scale."""

    def start_log_monitor(self) -> None:
        """Nobody reads the workers' output in the controller."""

    def start_api_server(self, **_: Any) -> None:
        """No dashboard."""

    def start_ray_client_server(self) -> None:
        """Drivers run on the nodes themselves."""


@contextmanager
def lean_nodes() -> Iterator[None]:
    """Let Ray start such nodes for the time of a ``with``."""
    own = node.Node
    node.Node = LeanNode
    try:
        yield
    finally:
        node.Node = own


def start_embedded(folder: Path, *, cpus: int, gpus: int, object_store_bytes: int) -> None:
    """Start a Ray on loopback, whose files lie in ``folder``, and connect to it."""
    with lean_nodes():
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def main() -> None:
    """Ray's command line."""
    from ray.scripts import scripts

    with lean_nodes():
        scripts.main()


if __name__ == "__main__":
    main()
