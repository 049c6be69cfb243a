"""Ending what this process started, and nothing else."""

import ctypes
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
KILL_PATIENCE_S = 10.0


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they are found at the end."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None, stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """Start a child that the signals before a time limit do not reach. stdin: as :mod:`subprocess` takes it.

    Slurm may send them to every process of a step, and their default is to end a process: ignored they stay ignored
    in everything the child starts.
    """
    deaf = ["/bin/sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh", *command]
    if log is None:
        return subprocess.Popen(deaf, env=environment, stdin=stdin)
    with log.open("ab") as file:
        return subprocess.Popen(deaf, env=environment, stdin=stdin, stdout=file, stderr=file, start_new_session=True)


def end(child: "subprocess.Popen[bytes]", grace_s: float) -> int:
    """SIGTERM, and SIGKILL where it has not ended in time; the exit status."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        return child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def end_descendants(grace_s: float) -> bool:
    """SIGTERM to all descendants, SIGKILL to those that stay; whether all are gone."""
    me = psutil.Process()
    for child in me.children(recursive=True):
        _send(child, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (children := me.children(recursive=True)) and time.monotonic() < deadline + KILL_PATIENCE_S:
        if time.monotonic() > deadline:
            for child in children:
                _send(child, signal.SIGKILL)
        psutil.wait_procs(children, timeout=0.2)
    return not children


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
