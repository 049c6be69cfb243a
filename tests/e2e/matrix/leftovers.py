"""What a run may leave behind on a machine: processes, listening ports, shared memory, temporary files."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
STAYS = ("ray::IDLE", "ray::_AutoscalingCoordinatorActor")
"""Beginnings of the titles of what a standing Ray keeps for the runs to come."""
SESSIONS = ("wt-*", "nodes-*")
"""In /tmp whatever TMPDIR says, because names of sockets are short."""
COMPILED = "torchinductor_"
"""torch's cache of compiled code, one for all programs of a user, which is to stay."""


@dataclass(frozen=True)
class Machine:
    """A look at the machine. processes: those whose environment or arguments name the folder of the runs."""

    processes: frozenset[tuple[int, str]]
    ports: frozenset[int]
    files: frozenset[str]


def look(folder: Path, session: int | None = None) -> Machine:
    """What belongs to runs in a folder now. session: of the command that ran, whose children count too.

    TMPDIR is the runs' own: what other programs leave in /tmp meanwhile is no run's.
    """
    ours = processes(folder, session)
    listening = [entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    ports = [entry.laddr.port for entry in listening if entry.pid in ours]
    places = [
        *((Path("/tmp"), names) for names in SESSIONS),
        (SHARED_MEMORY, "*"),
        (Path(os.environ["TMPDIR"]), "*"),
    ]
    files = [str(path) for place, names in places for path in place.glob(names) if _is_fresh(path, folder)]
    files = [path for path in files if not Path(path).name.startswith(COMPILED)]
    files += [str(path) for path in folder.rglob(".*.tmp")]
    return Machine(frozenset(ours.items()), frozenset(ports), frozenset(files))


def processes(folder: Path, session: int | None = None) -> dict[int, str]:
    """Names of those that belong to runs in a folder."""
    return {process.pid: _name(process) for process in psutil.process_iter() if _is_ours(process, folder, session)}


def left_over(before: Machine, after: Machine) -> list[str]:
    """What is there after and was not before."""
    alive = [f"process {number} ({name})" for number, name in sorted(after.processes - before.processes)]
    ports = [f"port {port}" for port in sorted(after.ports - before.ports)]
    return [*alive, *ports, *sorted(after.files - before.files)]


def _is_ours(process: psutil.Process, folder: Path, session: int | None) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        if session is not None and os.getsid(process.pid) == session:
            return True
        return _belongs(process, folder)
    except (psutil.Error, OSError):
        return False


def _belongs(process: psutil.Process, folder: Path) -> bool:
    """Whether it was started in the folder, or by a standing cluster, whose nodes have a folder above it.

    Nodes and what they keep outlast a run; what they do for it does not.
    """
    started_in = process.environ().get("WAVETRAIN_TEST_FOLDER")
    if started_in is None or not folder.is_relative_to(started_in):
        return False
    title = " ".join(process.cmdline())
    return str(folder) == started_in or (title.startswith("ray::") and not title.startswith(STAYS))


def _is_fresh(path: Path, folder: Path) -> bool:
    """Newer than the folder of the runs, and of nobody who is still alive: other work may go on beside the test."""
    try:
        return path.stat().st_mtime >= folder.stat().st_ctime and not _is_held(path)
    except OSError:
        return False


def _is_held(path: Path) -> bool:
    """Whether a living process has it open, mapped, or named in its arguments or environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink().is_relative_to(path) for link in (process / "fd").iterdir()):
                return True
            if any(
                str(path) in (process / kind).read_text(errors="replace") for kind in ("maps", "cmdline", "environ")
            ):
                return True
        except OSError:
            continue
    return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:60]
    except psutil.Error:
        return "?"
