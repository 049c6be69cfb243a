"""Jobs of a standing Ray cluster: submit, ask, stop; and what a run must know when it was started as one."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import JobState, State
from jobs.launch.snapshot import take_snapshot
from jobs.node.port_window import answers
from orchestrator.control.provenance import code_version
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec

STATES: dict[str, State] = {
    "PENDING": "PENDING",
    "RUNNING": "RUNNING",
    "SUCCEEDED": "FINISHED",
    "FAILED": "FAILED",
    "STOPPED": "KILLED",
}


def connect(dashboard: str | None) -> Any:
    """A client of the cluster's job server.

    Raises:
        UserError: no address, nothing answers there, or the token is wrong.
    """
    where = "cluster profile: ray_dashboard"
    if dashboard is None:
        raise UserError("the profile has no address of a job server", where=where, mend="e.g. http://10.0.0.1:8265")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(dashboard)
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise _refused(dashboard, error) from None


def _refused(dashboard: str, error: Exception) -> UserError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    mend = "check the address, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    return UserError(
        f"Ray's job server {dashboard} refuses ({reason})", where="cluster profile: ray_dashboard", mend=mend
    )


def check_answers(address: str) -> None:
    """Something listens at the address of a Ray head (Ray itself would try for a minute).

    Raises:
        UserError: nothing does, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit() and answers(host, int(port))):
        mend = "give HOST:PORT of a running Ray head, e.g. 10.0.0.1:6379"
        raise UserError(f"Ray at {address} does not answer", where="cluster profile: ray_address", mend=mend)


def describe(profile: Profile) -> str:
    """What a job of this profile will do, in words."""
    return f"\nRay job on {profile.ray_dashboard}: python -m jobs.launch.attempt RUN {profile.ray_address}"


def submit(job: JobSpec, profile: Profile) -> str:
    """Snapshot the code, start the controller as a Ray job; its id. The folder of the runs is shared by all nodes.

    Raises:
        UserError: the cluster does not answer.
    """
    client = connect(profile.ray_dashboard)
    launch = LaunchFolder(RunDirectory(profile.storage.runs / job.name))
    code = take_snapshot(launch.path)
    launch.write(job, profile)
    return start(client, launch, code)


def start(client: Any, launch: LaunchFolder, code: Path) -> str:
    """Start the controller of a run whose spec and profile are in its folder; the id of the job.

    Raises:
        UserError: the cluster refuses.
    """
    profile = launch.read_profile()
    command = [sys.executable, "-m", "jobs.launch.attempt", str(launch.run.path), str(profile.ray_address)]
    job_id = start_job(client, command, code, str(profile.ray_dashboard), {"wavetrain.run": str(launch.run.path)})
    record_submission(launch, job_id, profile.ray_dashboard, code.name)
    return job_id


def start_job(
    client: Any, command: Sequence[str], code: Path, dashboard: str, metadata: dict[str, str], job_id: str | None = None
) -> str:
    """Start a command of the snapshot on the head node, without claiming a CPU. job_id: a name of our own for the job.

    Raises:
        UserError: the cluster refuses.
    """
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": str(code)}}, "metadata": metadata, "submission_id": job_id}
    # `python -m` looks in the working directory first: here that in which an administrator started Ray.
    entrypoint = f"cd {shlex.quote(str(code))} && exec {shlex.join(command)}"
    try:
        return str(client.submit_job(entrypoint=entrypoint, **options))
    except (RuntimeError, OSError) as error:
        raise _refused(dashboard, error) from None


def record_submission(launch: LaunchFolder, job_id: str, dashboard: str | None, code: str | None) -> None:
    """Keep what ``status``, ``logs`` and ``cancel`` need."""
    launch.path.mkdir(parents=True, exist_ok=True)
    content = {
        "launcher": "ray", "job_id": job_id, "dashboard": dashboard, "code": code, "code_version": code_version(),
        "submitted": time.time(),
    }  # fmt: skip
    write_json(launch.submission, content)


def job_state(submission: Mapping[str, Any]) -> JobState:
    """Ask the cluster for one job, or for the sweep in which a run waits for its turn.

    Raises:
        UserError: the cluster does not answer.
    """
    if submission["job_id"] is None:
        return _state_of_waiting(submission)
    client = connect(submission.get("dashboard"))
    try:
        found = client.get_job_info(submission["job_id"])
    except (RuntimeError, OSError) as error:
        if "does not exist" in str(error):
            return JobState("KILLED", "Ray does not know the job any more")
        raise _refused(str(submission.get("dashboard")), error) from None
    state: State = STATES.get(str(getattr(found.status, "value", found.status)), "UNKNOWN")
    return JobState(state, found.message if state in ("FAILED", "PENDING") else None)


def _state_of_waiting(submission: Mapping[str, Any]) -> JobState:
    if submission.get("cancelled"):
        return JobState("KILLED", "cancelled before its turn")
    sweep = job_state({**submission, "job_id": submission["sweep_job_id"]})
    if sweep.state in ("FINISHED", "FAILED", "KILLED"):
        return JobState("KILLED", f"the sweep's job {submission['sweep_job_id']} ended before its turn")
    return JobState("PENDING", f"waits for its turn in the sweep's job {submission['sweep_job_id']}")


def logs(submission: Mapping[str, Any]) -> str:
    """What the job has printed; nothing while it waits in a sweep."""
    if submission["job_id"] is None:
        return ""
    return str(connect(submission.get("dashboard")).get_job_logs(submission["job_id"]))


def stop(launch: LaunchFolder) -> None:
    """Ask Ray to end the job (SIGTERM, and SIGKILL some seconds later); a run that waits in a sweep is passed over."""
    submission = launch.read_submission()
    if submission["job_id"] is None:
        write_json(launch.submission, {**submission, "cancelled": True})
    else:
        connect(submission.get("dashboard")).stop_job(submission["job_id"])
