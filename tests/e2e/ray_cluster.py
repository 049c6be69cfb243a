"""A standing Ray cluster of two nodes with token authentication and a job server, as an administrator starts it."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from channels.files import write_atomically
from tests.e2e.runs import ROOT
from tests.ports import held_port

OBJECT_STORE_BYTES = 80 * 2**20
TIMEOUT_S = 120


@dataclass(frozen=True)
class RayCluster:
    """Where it answers, and what its users need in their environment."""

    address: str
    dashboard: str
    environment: dict[str, str]


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start head and one more node with ``ray start --block``; end exactly those processes."""
    # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    write_atomically(folder / "token", secrets.token_hex(32), mode=0o600)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    children: list[subprocess.Popen[bytes]] = []
    ports = ExitStack()
    try:
        port, client, web, agent, other_agent = (ports.enter_context(held_port()) for _ in range(5))
        children.append(
            _start(folder, "head", environment, "--head", f"--port={port}", f"--ray-client-server-port={client}",
                   f"--dashboard-port={web}", f"--dashboard-agent-listen-port={agent}",
                   "--dashboard-host=127.0.0.1", "--include-dashboard=true")
        )  # fmt: skip
        _wait_for(web, children)
        _wait_for(agent, children)
        address = _address(folder, port)
        options = (f"--address={address}", f"--dashboard-agent-listen-port={other_agent}")
        children.append(_start(folder, "other", environment, *options))
        yield RayCluster(address, f"http://127.0.0.1:{web}", environment)
    finally:
        _end(children)
        ports.close()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, name: str, environment: dict[str, str], *options: str) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1",
        "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder / name}", *options,
    ]  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        full = os.environ | environment | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, env=full, stdout=log, stderr=log, cwd=folder, start_new_session=True)


def _address(folder: Path, port: int) -> str:
    """The address that Ray chose for this machine."""
    text = re.sub(r"\x1b\[\d+m", "", (folder / "head.log").read_text())
    found = re.search(r"Local node IP: ([\d.]+)", text)
    assert found, text
    return f"{found[1]}:{port}"


def _wait_for(port: int, children: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        assert all(child.poll() is None for child in children), "ray start has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"nothing answers at port {port}")


def _end(children: "list[subprocess.Popen[bytes]]") -> None:
    family = [process for child in children for process in psutil.Process(child.pid).children(recursive=True)]
    for child in children[::-1]:
        child.terminate()
    psutil.wait_procs(family, timeout=10)
    for child in children:
        child.kill()
        child.wait()
    for process in family:
        if process.is_running():
            process.kill()
