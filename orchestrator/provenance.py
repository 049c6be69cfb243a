"""What a run is made of: commit, versions, machine, data; as MLflow tags, inputs and artifacts."""

import getpass
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from channels.files import write_atomically
from channels.store import ChannelStore
from orchestrator.cluster import Profile
from orchestrator.config import JobSpec
from orchestrator.rundir import RunDirectory
from orchestrator.tracking import Tracker

if TYPE_CHECKING:
    from orchestrator.controller import Prepared


def tags(job: JobSpec, profile: Profile, plan_hash: str) -> dict[str, str]:
    """Tags of DESIGN's list that are known when a run starts."""
    commit = git("rev-parse", "HEAD")
    found = {
        "git.commit": commit or "none",
        "git.dirty": "unknown" if commit is None else str(bool(git("status", "--porcelain"))).lower(),
        "launcher": profile.launcher,
        "device": profile.device,
        "world_size": str(job.scale.workers),
        "nodes": os.environ.get("SLURM_JOB_NODELIST", platform.node()),
        "plan.hash": plan_hash,
        "spec.hash": job.fingerprint,
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": f"wavetrain train ({job.name})",
        "mlflow.source.type": "LOCAL",
        "model": job.model.name,
        "strategy": job.batching.strategy,
    }
    if job.description:
        found["mlflow.note.content"] = job.description
    found |= {f"slurm.{key.lower()}": os.environ[key] for key in ("SLURM_JOB_ID",) if key in os.environ}
    return found


def git(*arguments: str) -> str | None:
    """Output of a git command about this code; None outside a checkout or without git."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def log_inputs(tracker: Tracker, job: JobSpec, store: ChannelStore) -> None:
    """The store as an MLflow dataset, for training and for evaluation."""
    for role, context in (("pretrain", "training"), ("zeroshot", "evaluation")):
        names = [name for name, entry in store.sets.items() if entry.role == role]
        if names:
            profile = f'{{"sets": {len(names)}, "names": "{" ".join(names)}"}}'
            tracker.dataset(f"{job.data.store.name}-{role}", store.fingerprint, str(job.data.store), profile, context)


def write_artifacts(prepared: "Prepared", directory: RunDirectory) -> list[Path]:
    """The environment freeze and the picture of the plan, in the run's folder."""
    from orchestrator.pictures import draw_plan

    freeze = directory.path / "environment.txt"
    versions = sorted({f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}, key=str.lower)
    write_atomically(freeze, "\n".join([f"python=={platform.python_version()}", *versions]) + "\n")
    picture = directory.path / "plan.png"
    draw_plan(prepared.schedule.plan, prepared.catalogue, picture)
    return [freeze, picture]
