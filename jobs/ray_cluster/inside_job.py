"""``wavetrain train`` as the entrypoint of a Ray job that was submitted by Ray's own tools."""

import json
import os

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.ray_cluster.jobs import record_submission
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile

INSIDE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the process that a job starts."""


def adapt(profile: Profile) -> Profile:
    """Inside a job of Ray, use that Ray whatever the profile says; elsewhere the profile as it is.

    Raises:
        UserError: the runs would be written into the job's temporary working directory.
    """
    if INSIDE not in os.environ:
        return profile
    if not profile.storage.runs.is_absolute():
        mend = "give an absolute path that all nodes share, e.g. with --cluster"
        raise UserError("is relative, and a Ray job's folder is temporary", where="storage.runs", mend=mend)
    address = profile.ray_address or os.environ.get("RAY_ADDRESS", "auto")
    return profile.model_copy(update={"launcher": "ray", "ray_address": address})


def record_own_job(run: RunDirectory, profile: Profile) -> None:
    """Inside a job of Ray, let ``status``, ``logs`` and ``cancel`` find it; nothing elsewhere.

    Call it with the lock of the run: it replaces the record of an earlier submission.
    """
    if INSIDE in os.environ:
        metadata = json.loads(os.environ[INSIDE]).get("metadata", {})
        job_id = metadata.get("job_submission_id", "unknown")
        record_submission(LaunchFolder(run), job_id, profile.ray_dashboard, None)
