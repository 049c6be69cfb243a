"""What a job requests from Slurm by its profile."""

import math
from dataclasses import dataclass
from typing import Any

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile, SlurmSection, seconds
from orchestrator.spec.job import JobSpec

SIGNAL = "USR1"
"""What Slurm sends before a time limit; submitit on the nodes reads it from a variable."""
GPU_OPTIONS = frozenset({"gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket"})


@dataclass(frozen=True, slots=True)
class Submission:
    """A job ready for Slurm; nothing has been written."""

    job: JobSpec
    profile: Profile
    launch: LaunchFolder
    after: str | None = None
    """The job whose good end it waits for."""

    @property
    def slurm(self) -> SlurmSection:
        """What the job requests from Slurm."""
        assert self.profile.slurm is not None
        return self.profile.slurm

    @property
    def allocation(self) -> dict[str, Any]:
        """Parameters of submitit's executor, but for names and folders."""
        slurm = self.slurm
        cpus = cpus_a_node(self.job, self.profile)
        options = {name.replace("-", "_"): value for name, value in slurm.sbatch_options.items()}
        # With GPUs asked for by type, a second request for GPUs of any type would contradict it.
        gpus = None if GPU_OPTIONS & options.keys() else slurm.gpus_per_node
        if self.after is not None:
            # Without the second one Slurm keeps a job for ever whose dependency can no longer be met.
            options |= {"dependency": f"afterok:{self.after}", "kill_on_invalid_dep": "yes"}
        parameters = {
            "partition": slurm.partition,
            "account": slurm.account,
            "qos": slurm.qos,
            "constraint": slurm.constraint,
            "exclude": ",".join(slurm.exclude) or None,
            "time": minutes(slurm.time),
            "nodes": slurm.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus or None,
            "mem": None if slurm.memory_gb is None else f"{slurm.memory_gb}GB",
            "signal_delay_s": slurm.signal_lead_s,
            "wckey": None,
            # srun does not take over the batch job's CPUs a task since Slurm 22.05.
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={options.get('cpus_per_task', cpus)}"],
            "additional_parameters": {"requeue": True, "signal": f"{SIGNAL}@{slurm.signal_lead_s}", **options},
        }
        return {name: value for name, value in parameters.items() if value is not None or name == "wckey"}


def prepare_submission(job: JobSpec, profile: Profile, after: str | None = None) -> Submission:
    """Check that the job fits the allocation. after: id of the job whose good end it waits for.

    Raises:
        UserError: it does not.
    """
    assert profile.slurm is not None
    slurm, workers = profile.slurm, job.scale.most
    if workers % slurm.nodes:
        raise UserError(
            f"{workers} workers do not spread evenly over {slurm.nodes} nodes", where="scale.workers",
            mend="make it a multiple of slurm.nodes in the cluster profile",
        )  # fmt: skip
    if profile.device == "cuda" and workers > slurm.nodes * slurm.gpus_per_node:
        raise UserError(
            f"{workers} workers need a GPU each, {slurm.nodes} nodes x {slurm.gpus_per_node} are asked for",
            where="scale.workers", mend="raise slurm.nodes or slurm.gpus_per_node in the cluster profile",
        )  # fmt: skip
    if profile.network.interface is None:
        raise UserError(
            "a Slurm profile needs an interface", where="cluster profile: network.interface", mend="e.g. bond0 or eth0"
        )
    profile = profile.with_absolute_folders()
    return Submission(job, profile, LaunchFolder(RunDirectory(profile.storage.runs / job.name)), after)


def cpus_a_node(job: JobSpec, profile: Profile) -> int:
    """CPUs of one task: those of its GPUs, or those of its workers."""
    assert profile.slurm is not None
    workers = math.ceil(job.scale.most / profile.slurm.nodes) * profile.cpus_per_worker
    return max(workers, profile.slurm.gpus_per_node * profile.slurm.cpus_per_gpu)


def minutes(time: str) -> int:
    """Slurm's time in whole minutes, rounded up."""
    return math.ceil(seconds(time) / 60)
