"""What one task of a Slurm job runs: its part of Ray, and on node 0 also the controller, the stop and the requeue."""

import os
import sys
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.node import own_processes
from jobs.node.checks import check_machine, check_ranks, check_share, wanted_scan
from jobs.node.ray_node import RayNode, share_of
from jobs.node.rendezvous import BootstrapError, JobNode, Rendezvous
from jobs.node.versions import versions
from jobs.slurm.bring_up import failed_start, note_requeue, wait_for_all
from jobs.slurm.controller_process import ControllerProcess
from jobs.slurm.head import Head
from jobs.slurm.leave import leave, notify_attempt
from jobs.slurm.member import Member
from jobs.slurm.requeue import check_scontrol
from jobs.slurm.signals import SlurmSignals
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec


class NodeTask:
    """What submitit pickles. It holds a path and nothing else, so a requeue starts what lies on disk."""

    def __init__(self, run: Path) -> None:
        self.run = str(run)

    def __call__(self) -> str:
        """Run this node to the end of the attempt; returns only when the run is finished."""
        code, text = run_node(LaunchFolder(RunDirectory(Path(self.run))), node_from_slurm())
        if code:
            # Not an Exception: submitit would take it, or a return, for the result of a job that is to go on.
            sys.stderr.write(f"wavetrain: {text}\n")
            sys.stderr.flush()
            raise SystemExit(code)
        return text

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues when the signal arrives before our own handlers are installed."""
        return DelayedSubmission(self)


def node_from_slurm() -> JobNode:
    """This node of the job, from Slurm's environment."""
    environment = JobEnvironment()
    return JobNode(
        job_id=int(environment.raw_job_id),
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        rank=environment.node,
        hosts=tuple(environment.hostnames),
    )


def run_node(launch: LaunchFolder, this: JobNode) -> tuple[int, str]:
    """Exit code and a line on why."""
    try:
        profile, job = launch.read_profile(), launch.read_job()
    except UserError as error:
        # Nothing has begun, and the limits of every wait are in the profile.
        return 1, f"{this.host}: {error}"
    rendezvous = Rendezvous(launch.path / "attempts" / this.attempt, this)
    own_processes.adopt_orphans()
    with SlurmSignals().installed() as signals:
        try:
            _run_attempt(launch, rendezvous, signals, profile, job)
        except (BootstrapError, UserError) as error:
            rendezvous.fail(error)
            if this.rank == 0:
                rendezvous.announce_end(*failed_start(rendezvous, profile.time_limits.file_s))
        finally:
            rendezvous.mark("left")
        code, text = leave(launch, rendezvous, signals)
        if this.rank == 0:
            notify_attempt(launch, rendezvous, signals, text)
        return code, text


def _run_attempt(
    launch: LaunchFolder, rendezvous: Rendezvous, signals: SlurmSignals, profile: Profile, job: JobSpec
) -> None:
    if rendezvous.node.rank == 0:
        note_requeue(launch, rendezvous)
        if profile.slurm is not None and profile.slurm.max_requeues:
            check_scontrol(rendezvous.node.host)
    share = share_of(profile, job.scale.most, len(rendezvous.node.hosts))
    check_share(share)
    check_machine(profile)
    with RayNode(rendezvous, profile, share) as node:
        address = node.start()
        rendezvous.mark("joined")
        is_head = rendezvous.node.rank == 0
        controller = ControllerProcess(node, str(launch.run.path), address) if is_head else None
        wait_for_all(rendezvous, "joined", node, signals)
        check_ranks(rendezvous, node, profile, job.scale.most, wanted_scan(job.model))
        rendezvous.mark("ready", versions=versions())
        if controller is not None:
            Head(launch, rendezvous, node, signals, controller).run()
        else:
            Member(rendezvous, node, signals).run(address)
