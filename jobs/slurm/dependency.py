"""A job that waits for the good end of another run's job."""

import re

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import Query
from jobs.launch.run_status import run_status
from jobs.slurm.state import Run, run_command
from orchestrator.run.folder import RunDirectory


def job_to_wait_for(directory: RunDirectory, query: Query, run: Run = run_command) -> str | None:
    """The id of the job of a run that another one is to follow; None where the run is finished already.

    Raises:
        UserError: the run was not submitted to this Slurm, has ended badly, or its launcher does not answer.
    """
    where, submission = f"--after {directory.path.name}", LaunchFolder(directory).read_submission()
    if submission.get("launcher") != "slurm":
        mend = "name a run that wavetrain submit has handed to Slurm"
        raise UserError("the run was not submitted to Slurm", where=where, mend=mend)
    status = run_status(directory, query)
    if status.state == "FINISHED":
        return None
    if status.state not in ("PENDING", "RUNNING"):
        reason = f" ({status.reason})" if status.reason else ""
        raise UserError(f"the run is {status.state}{reason}", where=where, mend="submit it again first")
    here, there = cluster_name(run), submission.get("cluster")
    if there and here and there != here:
        raise UserError(
            f"the run's job is in the Slurm {there!r}, not in {here!r}", where=where, mend="submit it there"
        )
    return str(submission["job_id"])


def cluster_name(run: Run = run_command) -> str | None:
    """What the Slurm that answers here is called; None where it does not say so."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    return found[1] if found else None
