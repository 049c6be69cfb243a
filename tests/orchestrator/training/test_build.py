"""What a rank trains with: without any other rank, and on two real ranks, without Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.files import write_json
from orchestrator.run.adjustments import Adjustments, write_adjustments
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.shard_cache.placement import NodeGroup
from orchestrator.training.build import _schedule_on, open_job
from tests.jobs_for_tests import small_job


def test_a_job_is_opened_without_any_other_rank(small_store: Path) -> None:
    job = small_job(small_store)
    parts = open_job(job)
    assert parts.spec.name == "hetercsi" and parts.schedule.epochs == job.train.epochs
    [slice_] = parts.schedule.rank_step(0, 0, 1, 2)
    assert len(slice_.index) == job.batching.global_batch // 2
    assert len(parts.data.batch(slice_).grid) == len(slice_.index)


@pytest.mark.parametrize(("placement", "expected"), [("partition", 2), ("replicate", None)])
def test_packed_samples_stay_on_nodes_that_hold_their_own_shards_only(
    small_store: Path, placement: str, expected: int | None
) -> None:
    data = {"placement": placement, "cache_gb": 1.0}
    parts = open_job(small_job(small_store, data=data, batching={"strategy": "packed"}))
    group = NodeGroup(attempt="", node="a", number=0, ranks=(0, 1), nodes=("a", "a", "b", "b"))
    assert _schedule_on(parts, group).within == expected


def micro_batches_of_buckets(folders: list[str]) -> tuple[dict[int, int], Any, str, float | None]:
    """Most samples of a micro-batch by bucket over an epoch, and what else was agreed on or made."""
    import torch.distributed as dist

    from orchestrator.training.build import build

    parts = build(WorkerConfig(Path(folders[dist.get_rank()]), "cpu", peak_flops=5.0))
    most: dict[int, int] = {}
    with parts.loader() as loader:
        for _, batch in zip(range(parts.schedule.steps(0)), loader, strict=False):
            for micro in batch.micro_batches:
                most[micro.bucket] = max(most.get(micro.bucket, 0), len(micro.samples.grid))
            assert sum(len(micro.samples.grid) for micro in batch.micro_batches) == 8
    return most, parts.adjustments, type(parts.placement).__name__, parts.peak_flops


@pytest.fixture
def folders(small_store: Path, tmp_path: Path) -> list[RunDirectory]:
    """The run's folder as two ranks see it; a file server still hides the adjustments from the second one."""
    directories = [RunDirectory(tmp_path / f"as-rank-{rank}-sees-it") for rank in range(2)]
    for directory in directories:
        directory.path.mkdir()
        write_json(directory.spec, small_job(small_store).model_dump(mode="json"))
    return directories


def test_memory_that_runs_out_in_one_bucket_cuts_that_bucket_on_all_ranks(
    ranks: Any, folders: list[RunDirectory]
) -> None:
    adjustments = Adjustments((3,), {1: 3})
    write_adjustments(folders[0].adjustments, adjustments)
    found = ranks(2, micro_batches_of_buckets, [str(directory.path) for directory in folders])
    # Near-equal parts of 8 samples: 3, 3 and 2.
    assert found == [({0: 8, 1: 3}, adjustments, "SharedPlacement", 10.0)] * 2


def test_slices_of_other_buckets_in_a_step_keep_their_micro_batches(small_store: Path) -> None:
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    parts = open_job(small_job(small_store, batching={"slices": 2, "global_batch": 32, "mix": "step"}))
    batches = ScheduledBatches(parts.schedule, 0, 2)
    mixed = 0
    with StepLoader(
        parts.data, batches, SharedPlacement(parts.data.store), micro_batch=(8, 2), threads=1, prefetch=1
    ) as loader:
        for _, batch in zip(range(parts.schedule.steps(0)), loader, strict=False):
            mixed += len({micro.bucket for micro in batch.micro_batches}) == 2
            for micro in batch.micro_batches:
                assert len(micro.samples.grid) <= (8, 2)[micro.bucket]
            held = np.concatenate([micro.samples.keys.numpy() for micro in batch.micro_batches])
            assert len(held) == sum(len(slice_.index) for slice_ in batch.slices)
    assert mixed
