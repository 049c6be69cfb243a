"""What one task of a Slurm job does: its part of Ray; on node 0 also the controller, the stop and the requeue."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.node import own_processes
from jobs.node.checks import bad_nodes, check_machine, check_ranks, check_share
from jobs.node.doctor import versions
from jobs.node.keepalive import Lifeline, Lifelines
from jobs.node.ray_node import RayNode, share_of
from jobs.node.rendezvous import POLL_S, BadNodeError, BootstrapError, Meeting, Place
from jobs.slurm.requeue import own_job, requeue
from orchestrator.run.folder import RunDirectory

LEAVE_TIMEOUT_S = 60.0
VISIBLE_S = 10.0
"""How long a file may take to be seen on another node."""
STOP_RESERVE_S = 15.0
"""What is left of the time before a limit to end Ray and to requeue."""
CANCEL_GRACE_S = 15.0
"""With what ends Ray after it, less than the 30 s (KillWait) after which Slurm kills a cancelled job."""
LOST_GRACE_S = 5.0
EXCLUDED_TAG = "wavetrain.excluded_nodes"
STOPPED = {-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT}
"""Exit statuses of a controller that was asked to stop: before and after it could handle a signal, by request."""


class NodeTask:
    """What submitit pickles. It holds a path and nothing else, so a requeue starts what lies on disk."""

    def __init__(self, run: Path) -> None:
        self.run = str(run)

    def __call__(self) -> str:
        """Run this node to the end of the attempt; returns only when the run is finished."""
        code, text = run_node(LaunchFolder(RunDirectory(Path(self.run))), place_from_slurm())
        if code:
            # Not an Exception: submitit would take it, or a return, for the result of a job that is to go on.
            sys.stderr.write(f"wavetrain: {text}\n")
            sys.stderr.flush()
            raise SystemExit(code)
        return text

    def checkpoint(self) -> Any:
        """What submitit requeues when the signal arrives before our own handlers are installed."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Requests:
    """Signals of Slurm: before a time limit or preemption (USR1, USR2), and at the end of a job (TERM)."""

    requeue: bool = False
    terminate: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGTERM:
            self.terminate = True
        else:
            self.requeue = True

    @property
    def any(self) -> bool:
        """Whether the attempt is to end."""
        return self.requeue or self.terminate

    @contextmanager
    def installed(self) -> Iterator["Requests"]:
        """Handle the signals for the time of a ``with``, in place of submitit's handlers."""
        before = {number: signal.signal(number, self) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def place_from_slurm() -> Place:
    """This task, as Slurm's environment tells it."""
    import submitit

    environment = submitit.JobEnvironment()
    return Place(
        job_id=int(environment.raw_job_id),
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        node=environment.node,
        hosts=tuple(environment.hostnames),
    )


def run_node(launch: LaunchFolder, place: Place) -> tuple[int, str]:
    """Exit code and a line on why."""
    meeting = Meeting(launch.path / "attempts" / place.label, place)
    own_processes.adopt_orphans()
    with Requests().installed() as requests:
        try:
            profile, job = launch.read_profile(), launch.read_job()
            share = share_of(profile, job.scale.most, len(place.hosts))
            check_share(share)
            check_machine(profile)
            with RayNode(meeting, profile, share) as node:
                address = node.start()
                meeting.mark("joined")
                wait_for_all(meeting, "joined", node, requests)
                check_ranks(meeting, node, profile, job.scale.most)
                meeting.mark("ready", versions=versions())
                member = _Head(launch, meeting, node, requests) if place.node == 0 else _Member(meeting, node, requests)
                member.run(address)
        except (BootstrapError, UserError) as error:
            meeting.fail(error)
            if place.node == 0:
                meeting.announce_end(*_failed_start(meeting))
        finally:
            meeting.mark("left")
        return _leave(launch, meeting, requests)


def wait_for_all(meeting: Meeting, state: str, node: RayNode, requests: Requests) -> None:
    """Wait until every node of the job says that it has ``joined`` Ray, or is ``ready``; or the attempt is to end.

    Raises:
        BootstrapError: a node failed, or has not said so in time and is named.
    """
    what = {"joined": "have not joined Ray", "ready": "have joined Ray and are not ready"}[state]
    meeting.wait(
        lambda: not meeting.missing(state) or requests.any,
        [node.check],
        lambda: f"nodes {', '.join(meeting.missing(state))} {what}",
        node.timeout_s,
    )


def grace_s(requests: Requests, signal_lead_s: float) -> float:
    """How long the controller of healthy nodes may take to write its checkpoint and end."""
    return CANCEL_GRACE_S if requests.terminate else max(signal_lead_s - STOP_RESERVE_S, CANCEL_GRACE_S)


def _failed_start(meeting: Meeting) -> tuple[str, int, str]:
    """Outcome, code and cause of an attempt whose nodes did not meet: without a few bad ones the next may succeed."""
    deadline = time.monotonic() + VISIBLE_S
    while meeting.bad_hosts() and _undecided(meeting) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    bad = meeting.bad_hosts()
    return "lost" if 0 < len(bad) < len(meeting.place.hosts) else "failed", 1, "; ".join(meeting.failures())


def _undecided(meeting: Meeting) -> set[int]:
    return set(range(len(meeting.place.hosts))) - meeting.marked("failed") - meeting.marked("ready")


class _Member:
    """Every node but the first: keep Ray alive until node 0 announces the end."""

    def __init__(self, meeting: Meeting, node: RayNode, requests: Requests) -> None:
        self.meeting, self.node, self.requests = meeting, node, requests
        host, port = meeting.read(meeting.head)["lifeline"]
        try:
            self.lifeline = Lifeline((host, port), meeting.token.read_text(), meeting.place.node)
        except OSError as error:
            raise BootstrapError(
                f"node 0 ({meeting.place.hosts[0]}) does not answer at {host}:{port}: {error}"
            ) from None

    def run(self, address: str) -> None:
        """Wait for the end.

        Raises:
            BootstrapError: Ray ended on this node before that, or node 0 is gone.
        """
        deadline = None
        while not self.meeting.end.exists():
            try:
                self._check()
            except BootstrapError:
                # The head ends its Ray right after its announcement, which may take a while to be seen here.
                deadline = deadline or time.monotonic() + VISIBLE_S
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _check(self) -> None:
        if self.requests.terminate:
            # Slurm's SIGTERM goes to Ray as well: that it ends now is not this node's fault.
            raise BootstrapError("ended by Slurm")
        self.node.check()
        if self.lifeline.is_cut() or self.meeting.is_superseded():
            raise BootstrapError(f"node 0 ({self.meeting.place.hosts[0]}) does not answer any more")


class _Head:
    """The first node: wait for the others, run the controller, announce how it ended."""

    def __init__(self, launch: LaunchFolder, meeting: Meeting, node: RayNode, requests: Requests) -> None:
        self.launch, self.meeting, self.node, self.requests = launch, meeting, node, requests
        self.lifelines = Lifelines(node.window.guard, meeting.token.read_text())
        self.lost: list[str] = []

    def run(self, address: str) -> None:
        """One attempt of the run.

        Raises:
            BootstrapError: a node did not join.
        """
        wait_for_all(self.meeting, "ready", self.node, self.requests)
        if different := self.meeting.other_versions():
            raise BootstrapError(f"nodes differ: {'; '.join(different)}")
        self._check_network()
        code = -signal.SIGTERM if self.requests.any else self._control(address)
        outcome, cause = self._outcome(code)
        self.meeting.announce_end(outcome, code, cause)

    def _check_network(self) -> None:
        slow = bad_nodes(self.meeting, self.node.profile)
        for host, cause in slow.items():
            self.meeting.fail(BadNodeError(cause), self.meeting.place.hosts.index(host))
        if slow:
            raise BootstrapError("; ".join(slow.values()))

    def _control(self, address: str) -> int:
        """Run the controller as a child; its exit status."""
        if excluded := self.meeting.bad_hosts_so_far():
            self.launch.tag({EXCLUDED_TAG: ", ".join(sorted(excluded))})
        command = [sys.executable, "-m", "jobs.launch.attempt", str(self.launch.run.path), address]
        child = own_processes.start(command, self.node.environment, log=None)
        while child.poll() is None:
            self.lost = [] if self.requests.any else self._lost()
            if self.requests.any or self.lost:
                return self._stop(child)
            time.sleep(POLL_S)
        return int(child.returncode)

    def _stop(self, child: "subprocess.Popen[bytes]") -> int:
        slurm = self.node.profile.slurm
        assert slurm is not None
        # With a node gone there is no step at which a checkpoint could be written.
        return own_processes.end(child, LOST_GRACE_S if self.lost else grace_s(self.requests, slurm.signal_lead_s))

    def _lost(self) -> list[str]:
        try:
            self.node.check()
        except BootstrapError as error:
            self.meeting.fail(error)
            return [f"{self.meeting.place.host}: {error}"]
        if self.meeting.is_superseded():
            return ["Slurm has begun another attempt without this node"]
        for number in set(self.lifelines.cut()) - self.meeting.marked("failed") - self.meeting.marked("left"):
            self.meeting.fail(BadNodeError("the node does not answer any more"), number)
            self.meeting.mark("left", number)
        return self.meeting.failures()

    def _outcome(self, code: int) -> tuple[str, str | None]:
        if code == 0:
            return "finished", None
        if self.lost:
            return "lost", "; ".join(self.lost)
        if code in STOPPED or (code == -signal.SIGKILL and self.requests.any):
            stopped = ("stopped", "asked to stop before the time limit")
            return stopped if self.requests.requeue else ("cancelled", "cancelled or preempted")
        return "failed", f"the controller ended with status {code}"


def _leave(launch: LaunchFolder, meeting: Meeting, requests: Requests) -> tuple[int, str]:
    """The last act of a node, when none of its processes is left."""
    end = _end(meeting, requests)
    outcome, cause = end["outcome"], end["cause"] or "unknown"
    if meeting.place.node == 0:
        meeting.token.unlink(missing_ok=True)
    if outcome == "finished":
        return 0, "finished"
    if meeting.place.node == 0:
        if (outcome == "stopped" and requests.requeue and not requests.terminate) or outcome == "lost":
            return _requeue(launch, meeting, cause)
    elif outcome in ("stopped", "lost"):
        _wait_for_slurm(requests)
    return 1, cause


def _end(meeting: Meeting, requests: Requests) -> dict[str, Any]:
    """How the attempt ended; a node that failed stays until node 0 has said so, or is gone itself."""
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    while not meeting.end.exists() and not requests.terminate and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if meeting.end.exists():
        return meeting.read(meeting.end)
    return {"outcome": "failed", "cause": "; ".join(meeting.failures())}


def _requeue(launch: LaunchFolder, meeting: Meeting, cause: str) -> tuple[int, str]:
    """Ask Slurm for the next attempt, once every other node has left."""
    slurm = launch.read_profile().slurm
    assert slurm is not None
    place = meeting.place
    if place.restart >= slurm.max_requeues:
        return 1, f"{cause}; not requeued, slurm.max_requeues {slurm.max_requeues} is reached"
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    while meeting.missing("left") and not meeting.is_superseded() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if meeting.is_superseded():
        return 1, cause
    bad = meeting.bad_hosts_so_far()
    try:
        return 1, f"{cause}; {requeue(own_job(place.job_id), sorted({*slurm.exclude, *bad}) if bad else [])}"
    except RuntimeError as error:
        return 1, f"{cause}; not requeued: {error}"


def _wait_for_slurm(requests: Requests) -> None:
    """Stay until node 0 has requeued and Slurm ends the job: a status of ours would end the step before that."""
    deadline = time.monotonic() + 2 * LEAVE_TIMEOUT_S
    while not requests.terminate and time.monotonic() < deadline:
        time.sleep(POLL_S)
