"""Whole runs of one rank on the device: stop and go on with late reading, a profile, the probe, the zero-shot table."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.control.probe import RESERVE, probe_here, usable_share
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.monitoring.profiling import PARTS
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec
from orchestrator.training.build import build, open_job
from orchestrator.training.worker import train
from tests.attempts import prepare
from tests.gpu.training import RATE, batches_of, make_engine
from tests.jobs_for_tests import small_job
from tests.stores import make_random_store

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_rank")]


def attempt(folder: Path, device: str) -> str:
    """One attempt of a run, late reading where the device has it."""
    parts = build(WorkerConfig(folder, "cuda" if device == "cuda" else "cpu"))
    assert parts.engine.lag == (device == "cuda")
    return train(parts)


def losses_of(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"]["train/loss"] for line in lines if line["kind"] == "step"}


def job_of(store: Path, **sections: object) -> JobSpec:
    return small_job(store, data={"samples": 20}, checkpoint={"every_steps": 4}, scale={"workers": 1}, **sections)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_with_the_same_losses(store: Path, device: str, tmp_path: Path, precision: str) -> None:
    job = job_of(store, train={"precision": precision})
    straight, stopped = prepare(tmp_path / "straight", job), prepare(tmp_path / "stopped", job)
    assert attempt(straight.path, device) == "finished"
    stopped.stop_request.touch()
    assert attempt(stopped.path, device) == "stopped"
    stopped.stop_request.unlink()
    assert attempt(stopped.path, device) == "finished"
    expected, found = losses_of(straight.path), losses_of(stopped.path)
    assert expected.keys() == found.keys() and len(found) > 8
    # A device sums gradients of gathered tokens in no fixed order.
    np.testing.assert_allclose(
        list(found.values()), list(expected.values()), rtol=1e-4 if precision == "fp32" else 1e-2
    )


def test_the_zero_shot_table_is_that_of_the_cpu(store: Path, device: str, tmp_path: Path) -> None:
    job = job_of(store)
    directory = prepare(tmp_path / "run", job)
    assert attempt(directory.path, device) == "finished"
    for name in ("H1", "H2"):
        here, on_cpu = (evaluate_set(directory.export, store, name, job, where) for where in (device, "cpu"))
        assert len(here) == len(on_cpu) > 0
        for ours, theirs in zip(here, on_cpu, strict=True):
            assert (ours.task, ours.samples) == (theirs.task, theirs.samples)
            assert math.isclose(ours.nmse, theirs.nmse, rel_tol=1e-4), (name, ours, theirs)


def test_a_profile_gives_every_moment_to_one_part(store: Path, device: str, tmp_path: Path) -> None:
    directory = prepare(
        tmp_path / "run", job_of(store, train={"profile": {"from": 2, "steps": 3}, "precision": "bf16"})
    )
    assert attempt(directory.path, device) == "finished"
    parts = json.loads((directory.profile / "summary.json").read_text())["parts"]
    assert list(parts) == list(PARTS)
    assert sum(row["share"] for row in parts.values()) == pytest.approx(1, abs=0.02)
    for part in ("compute", "attention", "optimizer"):
        assert parts[part]["share"] > 0, part


@pytest.mark.usefixtures("on_gpu")
def test_what_the_probe_found_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for a few hundred samples of the published model, so that the probe finds an end."""
    many = {"train": 4096, "shapes": {"R3": (12, 16, 4)}, "shard_samples": 1024}
    store = make_random_store(tmp_path / "store", np.random.default_rng(7), **many)
    usable = 6 * 2**30 / torch.cuda.mem_get_info()[1]
    monkeypatch.setattr("orchestrator.control.probe.usable_share", lambda free, total: usable)
    shape = {"global_batch": 4096, "partitions": 1, "buckets": 1, "micro_batch": 4096}
    sections = {"batching": shape, "train": {"zero_stage": 1, "precision": "bf16"}, "scale": {"workers": 1}}
    job = small_job(store, replace_model={"name": "hetercsi", "size": "published"}, **sections)
    try:
        [fit] = probe_here(job, "cuda", 0)
        assert fit.limited and 16 <= fit.micro_batch < 4096
        found = job.model_copy(update={"batching": job.batching.model_copy(update={"micro_batch": fit.micro_batch})})
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(usable * (1 + RESERVE))
        parts = open_job(found)
        engine = make_engine(parts, "cuda")
        [batch] = batches_of(parts, 1, "cuda")
        assert max(len(micro.samples.grid) for micro in batch.micro_batches) > 0.5 * fit.micro_batch
        engine.step(batch, job.seed, lr=RATE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize(("free", "expected"), [(80, 0.9375), (40, 0.4375), (4, 0.0)])
def test_the_probe_leaves_a_reserve(free: int, expected: float) -> None:
    assert usable_share(free * 2**30, 80 * 2**30) == pytest.approx(expected)
