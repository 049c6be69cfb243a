"""A job and a Slurm profile for tests of launching."""

from pathlib import Path
from typing import Any

from jobs.slurm.submission import Submission, prepare_submission
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job


def slurm_profile(runs: Path, **slurm: Any) -> Profile:
    """Two nodes of eight GPUs."""
    section = {"partition": "gpu", "nodes": 2, "cpus_per_gpu": 12, "time": "1-02:30:00", **slurm}
    return Profile.model_validate(
        {
            "launcher": "slurm", "device": "cuda", "cpus_per_worker": 12, "storage": {"runs": str(runs)},
            "network": {"interface": "bond0"}, "slurm": section,
        }
    )  # fmt: skip


def job_of(workers: int = 16) -> JobSpec:
    """A job of so many ranks."""
    batching = {"global_batch": 64, "partitions": 16, "buckets": 2}
    return small_job(Path("/data/store"), "golden", scale={"workers": workers}, batching=batching)


def submission_in(runs: Path, **slurm: Any) -> Submission:
    """A submission that writes nothing."""
    return prepare_submission(job_of(), slurm_profile(runs, **slurm))
