"""Bringing up an attempt: waiting for its nodes, and judging a start that failed."""

import time

from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.node.ray_node import RayNode
from jobs.node.rendezvous import POLL_S, Rendezvous
from jobs.slurm.signals import SlurmSignals


def note_requeue(launch: LaunchFolder, rendezvous: Rendezvous) -> None:
    """Add to the submission since when this attempt was in the queue: the end of the one before, whoever requeued."""
    submission, since_s = launch.read_submission(), rendezvous.earlier_end_s()
    if submission and since_s is not None:
        write_json(launch.submission, {**submission, "requeued": since_s})


def wait_for_all(rendezvous: Rendezvous, state: str, node: RayNode, signals: SlurmSignals) -> None:
    """Wait until every node of the job says that it has ``joined`` Ray, or is ``ready``; or the attempt is to end.

    Raises:
        BootstrapError: a node failed, or has not said so in time and is named.
    """
    what = {"joined": "have not joined Ray", "ready": "have joined Ray and are not ready"}[state]
    rendezvous.wait(
        lambda: not rendezvous.missing(state) or signals.any,
        [node.check],
        lambda: f"nodes {', '.join(rendezvous.missing(state))} {what}",
        node.timeout_s,
    )


def failed_start(rendezvous: Rendezvous, file_s: float) -> tuple[str, int, str]:
    """Outcome, code and cause of an attempt that did not start: without a few bad nodes the next may succeed.

    file_s: how long a file may take to be seen on another node.
    """
    deadline = time.monotonic() + file_s
    while rendezvous.bad_hosts() and _undecided(rendezvous) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    bad = rendezvous.bad_hosts()
    return "lost" if 0 < len(bad) < len(rendezvous.node.hosts) else "failed", 1, "; ".join(rendezvous.failures())


def _undecided(rendezvous: Rendezvous) -> set[int]:
    return set(range(len(rendezvous.node.hosts))) - rendezvous.marked("failed") - rendezvous.marked("ready")
