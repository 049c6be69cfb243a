"""Asking Slurm for the next attempt of a running job, without the nodes that were found bad."""

import os
import subprocess
import time
from collections.abc import Sequence

EXCLUDE_TIMEOUT_S = 15.0
RETRY_S = 0.5


def own_job(job_id: int) -> str:
    """How Slurm's programs name this job: a task of an array by its number in the array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else str(job_id)


def requeue(job: str, excluded: Sequence[str]) -> str:
    """Put a job back into the queue; a word on what happened. Slurm ends what still runs of it.

    A running job's excluded nodes cannot be changed, so it is held in the queue for that moment.

    Raises:
        RuntimeError: Slurm refuses.
    """
    if not excluded:
        _scontrol("requeue", job)
        return "requeued"
    _scontrol("requeuehold", job)
    try:
        done = _exclude(job, excluded)
    finally:
        _scontrol("release", job)
    return f"requeued without {', '.join(excluded)}" if done else f"requeued, {', '.join(excluded)} not excluded"


def _exclude(job: str, nodes: Sequence[str]) -> bool:
    deadline = time.monotonic() + EXCLUDE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            _scontrol("update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}")
        except RuntimeError:
            time.sleep(RETRY_S)
        else:
            return True
    return False


def _scontrol(*arguments: str) -> None:
    # Once it is requeued Slurm ends this job, and its signal may reach the very command that is at work.
    deaf = ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", "scontrol", *arguments]
    done = subprocess.run(deaf, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"scontrol {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
