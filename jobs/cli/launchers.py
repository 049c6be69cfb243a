"""The job of a run, as its launcher knows it: Slurm, or the job server of a Ray cluster."""

from collections.abc import Mapping
from typing import Any

from channels.errors import UserError
from jobs.launch.job_state import JobState, Query
from jobs.ray_cluster import jobs as ray_jobs
from jobs.slurm import state as slurm_state


def query_launcher(submission: Mapping[str, Any]) -> JobState | None:
    """What the launcher of a submission says of its job; UNKNOWN with the reason where it does not answer."""
    return make_query()(submission)


def make_query() -> Query:
    """A query for many runs, which tries a launcher that does not answer only once."""
    silent: dict[str, JobState] = {}

    def query(submission: Mapping[str, Any]) -> JobState | None:
        launcher = str(submission.get("dashboard") or submission["launcher"])
        try:
            return silent.get(launcher) or _state_of(submission)
        except UserError as error:
            return silent.setdefault(launcher, JobState("UNKNOWN", str(error)))

    return query


def _state_of(submission: Mapping[str, Any]) -> JobState | None:
    if submission["launcher"] == "slurm":
        return slurm_state.job_state(str(submission["job_id"]))
    return ray_jobs.job_state(submission) if submission.get("dashboard") else None
