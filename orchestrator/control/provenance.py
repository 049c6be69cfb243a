"""What a run is made of: commit, versions, machine, data; as MLflow tags, inputs and artifacts."""

import getpass
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from channels.files import write_atomically
from channels.store import ChannelStore
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.outbox import Outbox
from samplers.catalogue import Catalogue
from samplers.plan import Plan


def tags(job: JobSpec, profile: Profile, plan_hash: str) -> dict[str, str]:
    """Tags of DESIGN's list that are known when a run starts."""
    found = {
        "launcher": profile.launcher,
        "device": profile.device,
        "world_size": job.scale.text,
        "nodes": os.environ.get("SLURM_JOB_NODELIST", platform.node()),
        "plan.hash": plan_hash,
        "spec.hash": job.fingerprint,
        "mlflow.user": user_name(),
        "mlflow.source.name": f"wavetrain train ({job.name})",
        "mlflow.source.type": "LOCAL",
        "model": job.model.name,
        "strategy": job.batching.strategy,
    }
    if profile.network.env:
        found["network.env"] = " ".join(f"{name}={value}" for name, value in sorted(profile.network.env.items()))
    if "SLURM_JOB_ID" in os.environ:
        found["slurm.job_id"] = os.environ["SLURM_JOB_ID"]
    return found


def user_name() -> str:
    """Who runs this: the name, or the number of a user that the machine has no entry for, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def code_version() -> dict[str, str]:
    """Commit of this code and whether it was changed since."""
    commit = git("rev-parse", "HEAD")
    dirty = "unknown" if commit is None else str(bool(git("status", "--porcelain"))).lower()
    return {"git.commit": commit or "none", "git.dirty": dirty}


def submission_of(directory: RunDirectory, launcher: str) -> dict[str, Any]:
    """How the controller that begins was submitted; empty for a command of one's own, whatever was submitted before.

    launcher: of its profile.
    """
    path = directory.launch / "submission.json"
    found: dict[str, Any] = json.loads(path.read_text()) if launcher != "local" and path.exists() else {}
    return found


def launch_tags(directory: RunDirectory, launcher: str) -> dict[str, str]:
    """What the launcher left: its job id, the version of the code it was submitted from, tags of its own."""
    submission = submission_of(directory, launcher)
    found = submission.get("code_version") or code_version()
    if submission.get("launcher") == "ray":
        found["ray.submission_id"] = submission["job_id"]
    elif submission:
        found["slurm.job_id"] = submission["job_id"]
    own = json.loads(directory.launch_tags.read_text()) if directory.launch_tags.exists() else {}
    return {**found, **own}


def attempt_tags(event: Mapping[str, Any], number: int) -> dict[str, str]:
    """Tags of an attempt that has begun."""
    return {"attempt": str(number), "world_size": str(event["world"]), "nodes": ",".join(sorted(event["machines"]))}


def launch_script(directory: RunDirectory) -> Path | None:
    """The batch script that the run was submitted with, copied under a steady name; None for another launcher."""
    path = directory.launch / "submission.json"
    submission = json.loads(path.read_text()) if path.exists() else {}
    if submission.get("launcher") != "slurm":
        return None
    written = Path(submission["logs"]) / f"{submission['job_id'].partition('_')[0]}_submission.sh"
    if not written.exists():
        return None
    copy = directory.launch / "sbatch.sh"
    write_atomically(copy, written.read_text())
    return copy


def git(*arguments: str) -> str | None:
    """Output of a git command about this code; None outside a checkout or without git."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def log_inputs(outbox: Outbox, job: JobSpec, store: ChannelStore) -> None:
    """The store as an MLflow dataset, for training and for evaluation."""
    for role, context in (("pretrain", "training"), ("zeroshot", "evaluation")):
        names = [name for name, entry in store.sets.items() if entry.role == role]
        if job.data.target is not None:
            names = [job.data.target]
        if names:
            profile = f'{{"sets": {len(names)}, "names": "{" ".join(names)}"}}'
            name = f"{job.data.store.name}-{job.data.target or role}"
            outbox.dataset(name, store.fingerprint, str(job.data.store), profile, context)


def write_artifacts(plan: Plan, catalogue: Catalogue, directory: RunDirectory) -> list[Path]:
    """The environment freeze and the picture of the plan, in the run's folder."""
    from orchestrator.report.plan_figures import draw_plan

    freeze = directory.path / "environment.txt"
    versions = sorted({f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}, key=str.lower)
    write_atomically(freeze, "\n".join([f"python=={platform.python_version()}", *versions]) + "\n")
    picture = directory.path / "plan.png"
    draw_plan(plan, catalogue, picture)
    return [freeze, picture]
