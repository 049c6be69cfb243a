"""An embedded Ray for one command: own temporary folder, token authentication, loopback, nothing left behind."""

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from channels.files import write_atomically
from orchestrator.control.owned_folders import PREFIX, SessionMemory
from orchestrator.control.ray_train import fork_server, reaper
from orchestrator.control.ray_train.environment import ray_environment
from orchestrator.control.ray_train.sigterm import shut_down, sigterm_kept
from orchestrator.spec.cluster import Profile, TimeLimitsSection
from orchestrator.spec.job import JobSpec

OBJECT_STORE_BYTES = 128 * 2**20
SLOW_START = "The current node timed out during startup"
"""How Ray says it."""
RAY_FOLDER = "r"
"""Folder of Ray's own inside that of a session: Ray lets everybody write into it, and only the one around it is ours
alone. The name is short because names of sockets inside must stay under 108 bytes."""


@dataclass(frozen=True, slots=True)
class Session:
    """What an embedded Ray finds when it starts: a folder of its own, and processes that serve it and clean up."""

    folder: Path
    environment: Mapping[str, str]
    """Of Ray and all its processes."""


@contextmanager
def session_ahead(profile: Profile) -> Iterator[Session | None]:
    """Begin an embedded Ray's session before Ray is needed: workers' imports go on beside the caller's work.

    None where the profile's Ray is not embedded. At the end nothing is left of it.
    """
    if profile.launcher != "local" or profile.ray_address is not None:
        yield None
        return
    # Socket names inside must stay under 108 bytes, so the folder is as short as it can be.
    folder = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(6)}"
    # Before the folder is there, so that nothing is left whenever this process is killed.
    reaper_process = reaper.start(folder)
    folder.mkdir(mode=0o700)
    write_atomically(folder / "token", secrets.token_hex(32), mode=0o600)
    environment = ray_environment(profile.time_limits) | _gloo_on_loopback() | fork_server.environment(folder)
    memory = SessionMemory(folder)
    environment |= memory.environment
    environment |= {"RAY_AUTH_MODE": "token", reaper.MARK: str(folder / "token")}
    server = fork_server.start(folder, profile.device, environment) if fork_server.serves(profile.device) else None
    try:
        yield Session(folder, environment)
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        reaper_process.communicate()
        memory.release()


@contextmanager
def ray_session(job: JobSpec, profile: Profile, session: Session | None = None) -> Iterator[None]:
    """Ray for the time of a ``with``: started here for the job's workers, or what answers at the profile's address.

    session: of :func:`session_ahead`; by default it is begun now.

    Raises:
        UserError: the profile's cluster does not answer.
    """
    if profile.ray_address is not None:
        with standing_ray(profile.ray_address, profile.time_limits):
            yield
        return
    workers = _local_workers(job, profile)
    with nullcontext(session) if session else session_ahead(profile) as begun:
        assert begun is not None
        with _embedded(begun, workers * profile.cpus_per_worker, workers if profile.device == "cuda" else 0):
            yield


@contextmanager
def _embedded(session: Session, cpus: int, gpus: int) -> Iterator[None]:
    with _environment(session.environment):
        from orchestrator.control.ray_train.lean_node import start_embedded

        try:
            with sigterm_kept(), _slow_start_as_user_error():
                ray_folder = session.folder / RAY_FOLDER
                start_embedded(ray_folder, cpus=cpus, gpus=gpus, object_store_bytes=OBJECT_STORE_BYTES)
            yield
        finally:
            shut_down()


@contextmanager
def _slow_start_as_user_error() -> Iterator[None]:
    """Ray gives its own processes half a minute to come up, and no setting for that."""
    try:
        yield
    except Exception as error:
        if not str(error).startswith(SLOW_START):
            raise
        mend = "see what else runs here (uptime, free -h), then give the same command again"
        raise UserError("Ray has not come up in 30 s", where="this machine is too busy", mend=mend) from None


def _local_workers(job: JobSpec, profile: Profile) -> int:
    """The most workers of a job that this machine has room for."""
    room = [job.scale.most, len(os.sched_getaffinity(0)) // profile.cpus_per_worker]
    if profile.device == "cuda":
        from orchestrator.monitoring.whole_gpus import count_devices

        room.append(count_devices().for_ranks(job.scale.most))
    return min(room)


@contextmanager
def standing_ray(address: str, limits: TimeLimitsSection) -> Iterator[None]:
    """The Ray that answers at an address, for the time of a ``with``.

    Raises:
        UserError: none answers.
    """
    with _environment(ray_environment(limits)):
        import ray

        try:
            with sigterm_kept():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Ray at {address} does not answer ({str(error).splitlines()[0]})",
                where="cluster profile: ray_address",
                mend="check the address and RAY_AUTH_TOKEN_PATH",
            ) from None
        try:
            yield
        finally:
            shut_down()


def _gloo_on_loopback() -> dict[str, str]:
    """The interface that ranks of one machine talk over, unless the user has chosen one."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of a ``with``."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
