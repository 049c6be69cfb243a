"""A sweep on a Ray cluster: one small job starts the children as others end, so nobody has to stay logged in.

``python -m jobs.ray_cluster.sweep FOLDER`` is what that job runs; FOLDER is the launch folder of the sweep.
"""

import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import ENDED
from jobs.launch.snapshot import take_snapshot
from jobs.ray_cluster import jobs as ray_jobs
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec

POLL_S = 2.0
PATIENCE_S = 60.0


def submit(children: Sequence[JobSpec], profile: Profile, shared: LaunchFolder, parallel: int) -> str:
    """Queue the children, start the job that starts them; its id.

    Raises:
        UserError: the cluster does not answer.
    """
    client = ray_jobs.connect(profile.ray_dashboard)
    code = take_snapshot(shared.path)
    launches = [LaunchFolder(RunDirectory(profile.storage.runs / child.name)) for child in children]
    for launch, child in zip(launches, children, strict=True):
        launch.write(child, profile)
    sweep_id = f"{shared.run.path.name}-{secrets.token_hex(4)}"
    plan = shared.path / f"{sweep_id}.json"
    runs = [str(launch.run.path) for launch in launches]
    write_json(plan, {"runs": runs, "parallel": parallel, "dashboard": profile.ray_dashboard, "code": str(code)})
    for launch in launches:
        record = {"launcher": "ray", "job_id": None, "dashboard": profile.ray_dashboard, "sweep_job_id": sweep_id}
        write_json(launch.submission, {**record, "code": code.name, "submitted": time.time()})
    command = [sys.executable, "-m", "jobs.ray_cluster.sweep", str(plan)]
    try:
        return ray_jobs.start_job(client, command, code, str(profile.ray_dashboard), {}, sweep_id)
    except UserError:
        for launch in launches:
            launch.submission.unlink()
        raise


def main(plan: str) -> int:
    """Start the children of a plan, so many at a time; the exit code."""
    content = json.loads(Path(plan).read_text())
    client = ray_jobs.connect(content["dashboard"])
    start_all(client, [LaunchFolder(RunDirectory(Path(run))) for run in content["runs"]], content)
    return 0


def start_all(client: Any, waiting: Sequence[LaunchFolder], plan: Mapping[str, Any]) -> None:
    """Start every run that has not been cancelled, at most ``plan["parallel"]`` at a time; returns when all ended.

    Raises:
        UserError: the cluster refuses a job.
    """
    running: list[LaunchFolder] = []
    for launch in waiting:
        while len(running := [other for other in running if not _has_ended(other)]) >= plan["parallel"]:
            time.sleep(POLL_S)
        if launch.read_submission().get("cancelled"):
            continue
        job_id = _start(client, launch, Path(plan["code"]))
        sys.stdout.write(f"job {job_id}: run {launch.run.path.name}\n")
        sys.stdout.flush()
        running.append(launch)
    while running := [other for other in running if not _has_ended(other)]:
        time.sleep(POLL_S)


def _start(client: Any, launch: LaunchFolder, code: Path) -> str:
    """Start a run; a server that does not answer for a moment is tried again.

    Raises:
        UserError: it refuses for a minute.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ray_jobs.start(client, launch, code)
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _has_ended(launch: LaunchFolder) -> bool:
    try:
        return ray_jobs.job_state(launch.read_submission()).state in ENDED
    except UserError:
        # This job runs on the cluster that does not answer: either it will answer, or this job ends too.
        return False


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except UserError as error:
        sys.stderr.write(f"wavetrain: {error}\n")
        sys.exit(2)
