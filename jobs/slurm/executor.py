"""Slurm through submitit: the exact batch script of a submission, and handing it over."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.launch.snapshot import code_folder, take_snapshot
from jobs.slurm.container import python_command, srun_arguments
from jobs.slurm.dependency import cluster_name
from jobs.slurm.node import NodeTask
from jobs.slurm.submission import SIGNAL, Submission
from orchestrator.control.provenance import code_version


class AnywhereSlurmExecutor(SlurmExecutor):  # type: ignore[misc]
    """Renders on machines without Slurm too."""

    @classmethod
    def affinity(cls) -> int:
        """How well this machine suits the executor; without Slurm it would be -1 and refused."""
        return 2


def render(submission: Submission) -> str:
    """The exact text that sbatch gets."""
    executor = make_executor([submission], submission.launch)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def make_executor(submissions: Sequence[Submission], shared: LaunchFolder) -> Any:
    """submitit's executor for runs of one allocation; it writes nothing yet. Code and logs lie in ``shared``.

    Raises:
        UserError: the container does not show what the run needs.
    """
    first = submissions[0]
    folder, container, storage = code_folder(shared.path), first.slurm.container, first.profile.storage
    code = shlex.quote(str(folder))
    # `python -m` looks in the working directory before PYTHONPATH, and that of sbatch may hold other code.
    entering = [f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}", f"cd {code} || exit 1"]
    setup = [*first.slurm.setup, *entering, f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}"]
    python, most = python_command(container), first.slurm.max_requeues
    executor = AnywhereSlurmExecutor(shared.submitted, max_num_timeout=most, python=python)
    needed = [storage.runs, *(submission.job.data.store.absolute() for submission in submissions)]
    inside = srun_arguments(container, folder, needed, storage.cache)
    allocation = {**first.allocation, "srun_args": [*first.allocation["srun_args"], *inside]}
    executor.update_parameters(job_name=shared.run.path.name, setup=setup, **allocation)
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
    cluster = cluster_name()
    code = take_snapshot(shared.path)
    for submission in submissions:
        submission.launch.write(submission.job, submission.profile)
    executor = make_executor(submissions, shared)
    executor.update_parameters(array_parallelism=parallel)
    jobs = _hand_over(executor, [NodeTask(submission.launch.run.path) for submission in submissions])
    for submission, job_id in zip(submissions, jobs, strict=True):
        record = {
            "launcher": "slurm", "job_id": job_id, "cluster": cluster, "code": code.name,
            "code_version": code_version(), "submitted": time.time(),
            "logs": str(shared.submitted), "folder": str(Path.cwd()), "python": sys.executable,
        }  # fmt: skip
        write_json(submission.launch.submission, record)
    return jobs


def _hand_over(executor: Any, tasks: Sequence[NodeTask]) -> list[str]:
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
