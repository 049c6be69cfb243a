"""The end of an attempt on one node: its exit code, and on node 0 the request for the next attempt."""

import time
from typing import Any

from jobs.launch.folder import LaunchFolder
from jobs.launch.notify import notify
from jobs.node.rendezvous import POLL_S, Rendezvous
from jobs.slurm.requeue import is_in_queue_again, own_job, requeue
from jobs.slurm.signals import CANCELLED, SlurmSignals
from orchestrator.spec.notify import Event


def leave(launch: LaunchFolder, rendezvous: Rendezvous, signals: SlurmSignals) -> tuple[int, str]:
    """Exit code and a line on why; the last thing a node does, after its processes have ended."""
    leave_s = launch.read_profile().time_limits.leave_s
    end = _end(rendezvous, signals, leave_s)
    outcome, cause = end["outcome"], end["cause"] or "unknown"
    if rendezvous.node.rank == 0:
        rendezvous.token.unlink(missing_ok=True)
    if outcome == "finished":
        return 0, "finished"
    if rendezvous.node.rank == 0:
        if (outcome == "stopped" and signals.requeue and not signals.terminate) or outcome == "lost":
            return 1, f"{cause}{_requeue(launch, rendezvous)}"
    elif outcome in ("stopped", "lost"):
        _wait_for_slurm(signals, leave_s)
    return 1, cause


def notify_attempt(launch: LaunchFolder, rendezvous: Rendezvous, signals: SlurmSignals, text: str) -> None:
    """Send the notice of an attempt, from its first node; none where ``wavetrain cancel`` or another attempt ended it.

    text: why it ended, and whether another attempt follows.
    """
    end = rendezvous.read(rendezvous.end) if rendezvous.end.exists() else {"outcome": "failed", "cause": None}
    outcome = end["outcome"]
    event: Event = "failed"
    if outcome == "finished":
        event = "finished"
    elif end["cause"] == CANCELLED or rendezvous.is_superseded():
        return
    elif signals.terminate or "; requeued" in text:
        event = "preempted"
    elif (own := launch.run.read_state()).get("status") == "FAILED" and _is_of(launch, rendezvous):
        text = own.get("cause") or text
    notify(launch.read_profile(), launch.run, event, None if event == "finished" else text, _warn)


def _is_of(launch: LaunchFolder, rendezvous: Rendezvous) -> bool:
    """Whether the run's state was written in this attempt, and not by the one before."""
    return launch.run.state.stat().st_mtime >= rendezvous.head.stat().st_mtime if rendezvous.head.exists() else False


def _warn(text: str) -> None:
    print(f"wavetrain: {text}", flush=True)  # noqa: T201 - the job's log


def _end(rendezvous: Rendezvous, signals: SlurmSignals, leave_s: float) -> dict[str, Any]:
    """How the attempt ended; a node that failed stays until node 0 has said so, or is gone itself."""
    deadline = time.monotonic() + leave_s
    while not rendezvous.end.exists() and not signals.terminate and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if rendezvous.end.exists():
        return rendezvous.read(rendezvous.end)
    return {"outcome": "failed", "cause": "; ".join(rendezvous.failures())}


def _requeue(launch: LaunchFolder, rendezvous: Rendezvous) -> str:
    """Ask Slurm for the next attempt, once every other node has left; what came of it, to follow the cause."""
    profile = launch.read_profile()
    slurm = profile.slurm
    assert slurm is not None
    node = rendezvous.node
    if node.restart >= slurm.max_requeues:
        return f"; not requeued, slurm.max_requeues {slurm.max_requeues} is reached"
    deadline = time.monotonic() + profile.time_limits.leave_s
    while rendezvous.missing("left") and not rendezvous.is_superseded() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if rendezvous.is_superseded():
        return ""
    job = own_job(node.job_id)
    # A request of ours would end the attempt that Slurm is about to begin.
    if is_in_queue_again(job, node.restart):
        return "; requeued by Slurm"
    bad = rendezvous.bad_hosts_so_far()
    try:
        return f"; {requeue(job, sorted({*slurm.exclude, *bad}) if bad else [])}"
    except RuntimeError as error:
        return f"; not requeued: {error}"


def _wait_for_slurm(signals: SlurmSignals, leave_s: float) -> None:
    """Stay until node 0 has requeued and Slurm ends the job: a status of ours would end the step before that."""
    deadline = time.monotonic() + 2 * leave_s
    while not signals.terminate and time.monotonic() < deadline:
        time.sleep(POLL_S)
