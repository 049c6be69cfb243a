"""``wavetrain train`` as the entrypoint of a Ray job that was submitted by Ray's own tools."""

import json
import os
from pathlib import Path

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.ray_cluster.jobs import record_submission
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import DEFAULT_FILE, Profile
from orchestrator.spec.job import JobSpec

INSIDE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the process that a job starts."""


def enter(root: Path | None, spec: Path, cluster_file: Path | None) -> tuple[Path, Path | None]:
    """Go to the folder where relative paths start; spec and cluster file as they are found from there.

    Ray's own tools start a job in a temporary copy of the folder that it was submitted from, which has the spec and the
    code; its channels and runs stay where they are.

    Raises:
        UserError: there is no such folder on this machine.
    """
    if root is None:
        return spec, cluster_file
    if not root.is_dir():
        mend = "give a folder that every node sees under this name"
        raise UserError("no such folder", where=f"--root {root}", mend=mend)
    if cluster_file is None and DEFAULT_FILE.exists():
        cluster_file = DEFAULT_FILE
    found = spec.absolute(), None if cluster_file is None else cluster_file.absolute()
    os.chdir(root)
    return found


def check_store_is_here(job: JobSpec) -> None:
    """Inside a job of Ray, that its temporary folder is not taken for where the channels lie.

    Raises:
        UserError: the store's path is relative, and the copy of the folder has no store.
    """
    store = job.data.store
    if INSIDE in os.environ and store.is_relative_to(Path.cwd()) and not store.exists():
        what = f"{store.relative_to(Path.cwd())} is relative, and a Ray job's folder is temporary"
        mend = "say where relative paths start: python -m jobs.run SPEC --root FOLDER, or give an absolute path"
        raise UserError(what, where="data.store", mend=mend)


def adapt(profile: Profile, rooted: bool = False) -> Profile:
    """Inside a job of Ray, use that Ray whatever the profile says; elsewhere the profile as it is.

    rooted: relative folders start at ``--root``.

    Raises:
        UserError: the runs would be written into the job's temporary working directory.
    """
    if INSIDE not in os.environ:
        return profile
    if not profile.storage.runs.is_absolute() and not rooted:
        mend = "give an absolute path that all nodes share, e.g. with --cluster, or --root FOLDER where it starts"
        raise UserError("is relative, and a Ray job's folder is temporary", where="storage.runs", mend=mend)
    address = profile.ray_address or os.environ.get("RAY_ADDRESS", "auto")
    profile = profile.with_absolute_folders() if rooted else profile
    return profile.model_copy(update={"launcher": "ray", "ray_address": address})


def record_own_job(run: RunDirectory, profile: Profile) -> None:
    """Inside a job of Ray, let ``status``, ``logs`` and ``cancel`` find it; nothing elsewhere.

    Call it with the lock of the run: it replaces the record of an earlier submission.
    """
    if INSIDE in os.environ:
        metadata = json.loads(os.environ[INSIDE]).get("metadata", {})
        job_id = metadata.get("job_submission_id", "unknown")
        record_submission(LaunchFolder(run), job_id, profile.ray_dashboard, None)
