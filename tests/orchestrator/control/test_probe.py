"""The micro-batch probe: bisection, and real passes under a memory limit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from orchestrator.control.probe import largest, probe, probe_here
from tests.jobs_for_tests import small_job

GIB = 2**30


@given(limit=st.integers(0, 3000), most=st.integers(0, 3000))
def test_bisection_finds_the_largest_that_fits(limit: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest(fits, most) == min(limit, most)
    assert len(tried) <= 26 and len(set(tried)) == len(tried)


def test_memory_bounds_the_micro_batch_and_longer_buckets_more(small_store: Path) -> None:
    job = small_job(small_store, batching={"global_batch": 48, "partitions": 4, "buckets": 1}, scale={"workers": 1})
    [tight] = probe(job, "cpu", 128 * 2**20)
    [roomy] = probe_here(job, "cpu", 4 * GIB)
    assert roomy.micro_batch == 48 and not roomy.limited
    assert 1 <= tight.micro_batch < 48 and tight.limited


def test_activations_are_recomputed_as_in_training(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed: list[object] = []
    monkeypatch.setattr("orchestrator.control.probe.checkpoint_activations", recomputed.append)
    for wanted, times in ((False, 0), (True, 1)):
        job = small_job(small_store, train={"activation_checkpointing": wanted, "precision": "bf16"})
        assert [fit.micro_batch for fit in probe_here(job, "cpu", 64 * GIB)] == [8, 8]
        assert len(recomputed) == times


def test_too_little_memory_for_one_sample_is_said(small_store: Path) -> None:
    with pytest.raises(UserError, match="not one sample"):
        probe(small_job(small_store), "cpu", 2**20)


def test_a_model_for_which_there_is_no_memory_fits_nothing(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU of which others hold all but the reserve."""

    def refuse(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr("orchestrator.control.probe._Trial", refuse)
    fits = probe_here(small_job(small_store), "cpu", GIB)
    assert [(fit.bucket, fit.micro_batch, fit.limited) for fit in fits] == [(0, 0, True), (1, 0, True)]


def test_the_command_prints_what_the_spec_takes(small_store: Path, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(small_job(small_store).model_dump(mode="json")))
    command = [sys.executable, "-m", "jobs.cli.main", "plan", str(spec), "--probe", "--memory-gb", "2", "--json"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    fits = json.loads(done.stdout)["micro_batches"]
    assert [fit["micro_batch"] for fit in fits] == [8, 8]
    again = small_job(small_store, batching={"micro_batch": [fit["micro_batch"] for fit in fits]})
    assert again.batching.micro_batch == (8, 8)
