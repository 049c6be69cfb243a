"""The first node of an attempt: wait for the others, run the controller, announce how it ended."""

import signal
import subprocess
import time

from jobs.launch.folder import LaunchFolder
from jobs.node import own_processes
from jobs.node.checks import bad_nodes
from jobs.node.keepalive import KeepaliveServer
from jobs.node.ray_node import RayNode
from jobs.node.rendezvous import POLL_S, BadDeviceError, BadNodeError, BootstrapError, Rendezvous
from jobs.slurm.bring_up import wait_for_all
from jobs.slurm.controller_process import ControllerProcess
from jobs.slurm.device_failures import DeviceFailures, find_host
from jobs.slurm.requeue import is_in_queue_again, own_job
from jobs.slurm.signals import CANCELLED, SlurmSignals

STOP_RESERVE_S = 15.0
"""Of the time between the signal and the limit, what is left to end Ray and to requeue."""
CANCEL_GRACE_S = 15.0
"""Together with the end of Ray, less than the 30 s (KillWait) after which Slurm kills a cancelled job."""
LOST_GRACE_S = 5.0
EXCLUDED_TAG = "wavetrain.excluded_nodes"
STOPPED = {-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT}
"""Exit statuses of a controller that was stopped: before and after it could handle SIGTERM, and by SIGINT."""


def grace_s(signals: SlurmSignals, signal_lead_s: float) -> float:
    """How long the controller of healthy nodes may take to write its checkpoint and end."""
    return CANCEL_GRACE_S if signals.terminate else max(signal_lead_s - STOP_RESERVE_S, CANCEL_GRACE_S)


class Head:
    """The first node: wait for the others, run the controller, announce how it ended."""

    def __init__(
        self, launch: LaunchFolder, rendezvous: Rendezvous, node: RayNode, signals: SlurmSignals,
        controller: ControllerProcess,
    ) -> None:  # fmt: skip
        self.launch, self.rendezvous, self.node, self.signals = launch, rendezvous, node, signals
        self.controller = controller
        silence_s = node.profile.time_limits.silence_s
        self.keepalive = KeepaliveServer(node.window.guard, rendezvous.token.read_text(), silence_s)
        self.devices = DeviceFailures(launch.run.failures)
        self.lost: list[str] = []

    def run(self) -> None:
        """One attempt of the run.

        Raises:
            BootstrapError: a node did not join.
        """
        wait_for_all(self.rendezvous, "ready", self.node, self.signals)
        if different := self.rendezvous.other_versions():
            raise BootstrapError(f"nodes differ: {'; '.join(different)}")
        self._check_network()
        code = -signal.SIGTERM if self.signals.any else self._control()
        outcome, cause = self._outcome(code)
        self.rendezvous.announce_end(outcome, code, cause)

    def _check_network(self) -> None:
        slow = bad_nodes(self.rendezvous, self.node.profile)
        for host, cause in slow.items():
            self.rendezvous.fail(BadNodeError(cause), self.rendezvous.node.hosts.index(host))
        if slow:
            raise BootstrapError("; ".join(slow.values()))

    def _control(self) -> int:
        """Let the controller begin, and see it to its end; its exit status."""
        if excluded := self.rendezvous.bad_hosts_so_far():
            self.launch.tag({EXCLUDED_TAG: ", ".join(sorted(excluded))})
        child = self.controller.begin()
        while child.poll() is None:
            self.lost = [] if self.signals.any else self._lost()
            if self.signals.any or self.lost:
                return self._stop(child)
            time.sleep(POLL_S)
        return int(child.returncode)

    def _stop(self, child: "subprocess.Popen[bytes]") -> int:
        slurm = self.node.profile.slurm
        assert slurm is not None
        # With a node gone there is no step at which a checkpoint could be written.
        return own_processes.end(child, LOST_GRACE_S if self.lost else grace_s(self.signals, slurm.signal_lead_s))

    def _lost(self) -> list[str]:
        try:
            self.node.check()
        except BootstrapError as error:
            self.rendezvous.fail(error)
            return [f"{self.rendezvous.node.host}: {error}"]
        if self.rendezvous.is_superseded():
            return ["Slurm has begun another attempt without this node"]
        if not self._mark_silent():
            return ["Slurm has put the job back into the queue"]
        self._mark_bad_devices()
        return self.rendezvous.failures()

    def _mark_silent(self) -> bool:
        """A node that does not answer is left out of the next attempt, unless Slurm itself has ended this one."""
        silent = set(self.keepalive.lost()) - self.rendezvous.marked("failed") - self.rendezvous.marked("left")
        this = self.rendezvous.node
        if silent and is_in_queue_again(own_job(this.job_id), this.restart):
            return False
        for number in silent:
            self.rendezvous.fail(BadNodeError("the node does not answer any more"), number)
            self.rendezvous.mark("left", number)
        return True

    def _mark_bad_devices(self) -> None:
        """A node with a broken device is left out of the next attempt, though it answers."""
        for name, problem in self.devices.new().items():
            number = find_host(name, self.rendezvous.node.hosts)
            if number is None:
                print(f"{name} is none of this job's nodes: {problem}", flush=True)  # noqa: T201 - the job's log
            else:
                self.rendezvous.fail(BadDeviceError(problem), number)

    def _outcome(self, code: int) -> tuple[str, str | None]:
        if code == 0:
            return "finished", None
        if self.lost:
            cause = "; ".join(self.lost)
            broken, budget = self.rendezvous.attempts_with_bad_devices(), self.launch.read_job().failures.device
            if broken > budget:
                return "failed", f"{cause}; a device broke in {broken} attempts, failures.device is {budget}"
            return "lost", cause
        # Where Slurm ends everything at once, Ray may crash in the controller before the controller has ended.
        if code in STOPPED or (code < 0 and self.signals.any):
            if self.signals.requeue:
                return "stopped", "stopped before the time limit"
            return "cancelled", "cancelled or preempted" if self.signals.terminate else CANCELLED
        return "failed", f"the controller ended with status {code}"
