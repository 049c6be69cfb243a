"""Slurm through submitit: what a profile requests, the exact batch script, and its submission."""

import math
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.launch.snapshot import code_folder, take_snapshot
from jobs.slurm.node import NodeTask
from orchestrator.control.provenance import code_version
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile, SlurmSection, seconds
from orchestrator.spec.job import JobSpec

SIGNAL = "USR1"
"""What Slurm sends before a time limit; submitit on the nodes reads it from a variable."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job ready for Slurm; nothing has been written."""

    job: JobSpec
    profile: Profile
    launch: LaunchFolder

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
            "gpus_per_node": slurm.gpus_per_node or None,
            "mem": None if slurm.memory_gb is None else f"{slurm.memory_gb}GB",
            "signal_delay_s": slurm.signal_lead_s,
            "wckey": None,
            # srun does not take over the batch job's CPUs a task since Slurm 22.05.
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
            "additional_parameters": {"requeue": True, "signal": f"{SIGNAL}@{slurm.signal_lead_s}"},
        }
        return {name: value for name, value in parameters.items() if value is not None or name == "wckey"}


def prepare_submission(job: JobSpec, profile: Profile) -> Submission:
    """Check that the job fits the allocation.

    Raises:
        UserError: it does not.
    """
    assert profile.slurm is not None
    slurm, workers = profile.slurm, job.scale.most
    if workers % slurm.nodes:
        raise UserError(
            f"{workers} workers do not spread evenly over {slurm.nodes} nodes", where="scale.workers",
            mend="make it a multiple of slurm.nodes in cluster.yaml",
        )  # fmt: skip
    if profile.device == "cuda" and workers > slurm.nodes * slurm.gpus_per_node:
        raise UserError(
            f"{workers} workers need a GPU each, {slurm.nodes} nodes x {slurm.gpus_per_node} are asked for",
            where="scale.workers", mend="raise slurm.nodes or slurm.gpus_per_node in cluster.yaml",
        )  # fmt: skip
    if profile.network.interface is None:
        raise UserError(
            "a Slurm profile needs an interface", where="cluster.yaml: network.interface", mend="e.g. bond0 or eth0"
        )
    profile = profile.with_absolute_folders()
    return Submission(job, profile, LaunchFolder(RunDirectory(profile.storage.runs / job.name)))


def cpus_a_node(job: JobSpec, profile: Profile) -> int:
    """CPUs of one task: those of its GPUs, or those of its workers."""
    assert profile.slurm is not None
    workers = math.ceil(job.scale.most / profile.slurm.nodes) * profile.cpus_per_worker
    return max(workers, profile.slurm.gpus_per_node * profile.slurm.cpus_per_gpu)


def minutes(time: str) -> int:
    """Slurm's time in whole minutes, rounded up."""
    return math.ceil(seconds(time) / 60)


def render(submission: Submission) -> str:
    """The exact text that sbatch gets."""
    executor = make_executor(submission, submission.launch)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def make_executor(submission: Submission, shared: LaunchFolder) -> Any:
    """submitit's executor with every parameter set; it writes nothing yet. Code and logs lie in ``shared``."""
    from submitit import SlurmExecutor

    class AnywhereSlurmExecutor(SlurmExecutor):  # type: ignore[misc]
        """Renders on machines without Slurm too."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    code = shlex.quote(str(code_folder(shared.path)))
    # `python -m` looks in the working directory before PYTHONPATH, and that of sbatch may hold other code.
    entering = [f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}", f"cd {code} || exit 1"]
    setup = [*submission.slurm.setup, *entering, f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}"]
    executor = AnywhereSlurmExecutor(shared.submitted, max_num_timeout=submission.slurm.max_requeues)
    executor.update_parameters(job_name=shared.run.path.name, setup=setup, **submission.allocation)
    return executor


def submit(submission: Submission) -> str:
    """Snapshot the code, hand the job to Slurm; its id.

    Raises:
        UserError: no Slurm here, or sbatch refuses.
    """
    return submit_array([submission], submission.launch, parallel=1)[0]


def submit_array(submissions: Sequence[Submission], shared: LaunchFolder, parallel: int) -> list[str]:
    """Several runs as one job array, at most ``parallel`` at a time; their ids. Code and logs lie in ``shared``.

    Raises:
        UserError: the runs need different allocations, there is no Slurm here, or sbatch refuses.
    """
    first = submissions[0]
    if any(other.allocation != first.allocation for other in submissions):
        mend = "sweep over other fields, or submit one by one"
        raise UserError("the children need different allocations", where="--sweep", mend=mend)
    code = take_snapshot(shared.path)
    for submission in submissions:
        submission.launch.write(submission.job, submission.profile)
    executor = make_executor(first, shared)
    executor.update_parameters(array_parallelism=parallel)
    jobs = _hand_over(executor, [NodeTask(submission.launch.run.path) for submission in submissions])
    for submission, job_id in zip(submissions, jobs, strict=True):
        record = {
            "launcher": "slurm", "job_id": job_id, "code": code.name, "code_version": code_version(),
            "submitted": time.time(),
            "logs": str(shared.submitted), "folder": str(Path.cwd()), "python": sys.executable,
        }  # fmt: skip
        write_json(submission.launch.submission, record)
    return jobs


def _hand_over(executor: Any, tasks: Sequence[NodeTask]) -> list[str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (OSError, subprocess.CalledProcessError, FailedJobError, FailedSubmissionError) as error:
        raise refused(error) from None
    return [str(job.job_id) for job in jobs]


def refused(error: Exception) -> UserError:
    """One line of what sbatch said."""
    lines = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines() if line.strip()]
    mend = "compare with sinfo and sacctmgr show assoc; nothing was queued"
    return UserError(f"sbatch refuses ({lines[0] if lines else type(error).__name__})", where="slurm", mend=mend)
