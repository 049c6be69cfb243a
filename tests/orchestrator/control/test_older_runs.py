"""Folders of runs that were begun before: gone on with, or refused in one line that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import write_json
from orchestrator.control.prepare import prepare
from orchestrator.run.folder import RunDirectory, check_resumable
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job

SPEC = """
{
 "name": "older",
 "description": "",
 "seed": 3,
 "data": {"store": "/store", "sets": null, "zeroshot_sets": null, "samples": null, "snr_db": 20.0, "placement":
  "shared", "cache_gb": null},
 "model": {"name": "hetercsi", "size": "tiny", "position": "grid"},
 "batching": {"strategy": "bucket", "pack": "bucket", "method": "optimal", "buckets": 2, "min_sources": 1,
  "min_entropy": null, "cost": "tokens", "global_batch": 16, "batch_tokens": null, "batch_flops": null,
  "partitions": 4, "micro_batch": 16, "mix": "none", "slices": 1, "tails": "fill"},
 "train": {"epochs": 8, "lr": 0.001, "min_lr": 0.0, "warmup_epochs": 0.5, "weight_decay": 0.05, "betas": [0.9,
  0.95], "clip_norm": 1.0, "precision": "fp32", "activation_checkpointing": false, "compile": false, "zero_stage":
  2, "loader_threads": 1, "prefetch": 4, "profile": null},
 "scale": {"workers": 2},
 "checkpoint": {"every_steps": 7, "every_minutes": null, "keep": 2, "keep_best": false},
 "failures": {"worker": 3, "hang": 3, "preemption": 100, "out_of_memory": 6, "diverged": 0, "bad_data": 0,
  "backoff_s": 1.0, "backoff_cap_s": 300.0, "hang_factor": 20.0, "hang_floor_s": 300.0, "spike_factor": null,
  "slow_factor": 1.5},
 "evaluation": {"split": "test", "samples": null, "batch": 64, "seed": 0, "every_epochs": null, "references": true},
 "tracking": {"uri": null, "experiment": "wavetrain", "every_steps": 1, "log_samples": false, "system_every_s": 5.0,
  "print_every_s": 5.0, "register_model": true}
}
"""
"""A ``spec.json`` as it was written before the orchestrator had packages."""
FINGERPRINT = "cd7c6fa20b932094cbf6ad5c9b4b3ba6a3774e5615ba39b11ee6d67082e7c7bf"
"""Of that job, as its checkpoints have it."""
BF16_FINGERPRINT = "b8ae4c4331b8d5c796ea7831300e4cee4094ca778d01e78d68b60b3d4e1f2e91"
"""The same for precision bf16."""


def test_a_job_is_the_one_of_its_older_checkpoints(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.spec.write_text(SPEC)
    directory.update_state(status="KILLED", store_fingerprint="f", attempts=2, failures=[])
    job = directory.read_spec()
    assert job.fingerprint == FINGERPRINT
    assert check_resumable(directory, JobSpec.model_validate(json.loads(SPEC)), "f")
    other = job.model_copy(update={"batching": job.batching.model_copy(update={"shuffle": "sample"})})
    assert other.fingerprint != FINGERPRINT
    with pytest.raises(UserError, match="shuffle"):
        check_resumable(directory, other, "f")


def test_what_bf16_was_before_goes_on_as_bf16_pure(tmp_path: Path) -> None:
    """Weights in bfloat16, with the fingerprint of its checkpoints; mixed precision would be another run."""
    directory = RunDirectory(tmp_path)
    directory.spec.write_text(SPEC.replace('"precision": "fp32"', '"precision": "bf16"'))
    job = directory.read_spec()
    assert job.train.precision == "bf16_pure" and job.fingerprint == BF16_FINGERPRINT
    assert check_resumable(directory, job, "f")
    mixed = job.model_copy(update={"train": job.train.model_copy(update={"precision": "bf16"})})
    with pytest.raises(UserError, match=r"train\.precision: 'bf16_pure' -> 'bf16'"):
        check_resumable(directory, mixed, "f")
    write_json(directory.spec, mixed.model_dump(mode="json"))
    assert directory.read_spec() == mixed


@pytest.mark.parametrize(("written", "is_taken"), [({"fingerprint": "of another version"}, False), ({}, True)])
def test_a_plan_that_is_no_longer_made_is_refused(
    small_store: Path, tmp_path: Path, written: dict[str, Any], is_taken: bool
) -> None:
    job, profile = small_job(small_store), Profile.model_validate({"storage": {"runs": tmp_path}})
    fresh = prepare(job, profile)
    directory = fresh.directory
    directory.path.mkdir()
    write_json(directory.spec, job.model_dump(mode="json"))
    write_json(directory.plan, {"fingerprint": fresh.schedule.plan.fingerprint})
    assert prepare(job, profile).resumes
    write_json(directory.plan, written)
    if is_taken:
        assert prepare(job, profile).resumes
        return
    with pytest.raises(UserError, match=r"plan\.json: the run was begun with another plan .*; go on with the version"):
        prepare(job, profile)
