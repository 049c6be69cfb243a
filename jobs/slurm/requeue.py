"""Asking Slurm for the next attempt of a running job, without the nodes that were found bad."""

import os
import re
import subprocess
import time
from collections.abc import Sequence

from channels.errors import UserError

ANSWER_S = 60.0
LOOK_S = 5.0
"""For a question whose answer may be missing; before a time limit there is little more."""
HELD_ANSWER_S = 12.0
HELD_REPEAT_S = 10.0
"""For each command about a job that is held: Slurm kills what is left of it after 30 s (KillWait)."""
RETRY_S = 0.5


class SilentError(RuntimeError):
    """Slurm has not answered; it may have carried out the command all the same."""


def check_scontrol(host: str) -> None:
    """Found before hours of training, not when the time limit is near.

    Raises:
        UserError: Slurm's program is missing where this runs, or cannot be started.
    """
    mend = "the container needs Slurm's programs, configuration and munge's socket; or slurm.max_requeues: 0"
    try:
        done = subprocess.run(["scontrol", "--version"], capture_output=True, text=True, timeout=HELD_ANSWER_S)
    except OSError as error:
        raise UserError(f"no scontrol here to requeue the job ({error.strerror})", where=host, mend=mend) from None
    except subprocess.TimeoutExpired:
        # A node that is busy now may answer at the end.
        return
    if done.returncode:
        # The last of its lines names the cause; those before it name attempts.
        said = next(reversed(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise UserError(f"scontrol does not run here ({said})", where=host, mend=mend)


def own_job(job_id: int) -> str:
    """How Slurm's programs name this job: a task of an array by its number in the array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else str(job_id)


def is_in_queue_again(job: str, restart: int) -> bool:
    """Whether Slurm has by itself put a job back since the attempt with this number of restarts, whose end this is.

    Where Slurm does not answer, it has not.
    """
    try:
        said = _scontrol("show", "job", job, timeout_s=LOOK_S)
    except RuntimeError:
        return False
    found = re.search(r"\bRestarts=(\d+)", said)
    return found is not None and int(found[1]) > restart


def requeue(job: str, excluded: Sequence[str]) -> str:
    """Put a job back into the queue; what happened, in a few words. Slurm ends what still runs of it.

    A running job's excluded nodes cannot be changed, so it is held in the queue for that moment.

    Raises:
        RuntimeError: Slurm refuses or does not answer, or the job is left held.
    """
    if not excluded:
        _scontrol("requeue", job, timeout_s=ANSWER_S)
        return "requeued"
    try:
        _scontrol("requeuehold", job)
    except SilentError:
        # A job that is held waits for ever.
        _repeat("release", job)
        raise
    problem = _repeat("update", f"JobId={job}", f"ExcNodeList={','.join(excluded)}")
    held = _repeat("release", job)
    if held:
        raise RuntimeError(f"the job is in the queue and held ({held}); scontrol release {job} starts it")
    return f"requeued, {', '.join(excluded)} not excluded" if problem else f"requeued without {', '.join(excluded)}"


def _repeat(*arguments: str) -> str | None:
    """Try a command of scontrol until it succeeds, for a limited time; the last error otherwise."""
    deadline = time.monotonic() + HELD_REPEAT_S
    while True:
        try:
            _scontrol(*arguments)
        except RuntimeError as error:
            if time.monotonic() >= deadline:
                return str(error)
            time.sleep(RETRY_S)
        else:
            return None


def _scontrol(*arguments: str, timeout_s: float = HELD_ANSWER_S) -> str:
    # Once it is requeued Slurm ends this job, and its signal may reach the very command that is at work.
    deaf = ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", "scontrol", *arguments]
    command = f"scontrol {' '.join(arguments)}"
    try:
        done = subprocess.run(deaf, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise SilentError(f"{command} has not answered in {timeout_s:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.returncode}")
    return done.stdout
