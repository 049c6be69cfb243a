"""The loader: where its batches are made, in how many threads, and that those know their device."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.interface import PackedBatch
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.global_steps import Sharing
from orchestrator.run.adjustments import Adjustments
from orchestrator.run.failures import MicroBatchTooLargeError
from orchestrator.shard_cache.placement import SharedPlacement
from orchestrator.training.build import Parts, open_job
from orchestrator.training.loader import MicroBatch, StepLoader, split_slice, use_device
from orchestrator.training.memory import explained_memory
from samplers.batches import ScheduledBatches
from samplers.load import step_imbalance
from tests.jobs_for_tests import small_job


@pytest.mark.parametrize("strategy", ["bucket", "packed"])
def test_a_micro_batch_that_the_device_makes_is_that_of_the_host(strategy: str, small_store: Path) -> None:
    data = (parts := open_job(small_job(small_store, batching={"strategy": strategy}))).data
    tables = NormalTables.on("cpu")
    for slice_ in split_slice(parts.schedule.rank_step(0, 0, 0, 1)[0], 5):
        made = MicroBatch(data.stored_batch(slice_, tables), 0, 0).on(torch.device("cpu"))
        expected = MicroBatch(data.batch(slice_), 0, 0).on(torch.device("cpu"))
        assert isinstance(made, PackedBatch) == (strategy == "packed") and torch.equal(made.tokens, expected.tokens)


def test_exhausted_memory_is_explained_alike_wherever_a_batch_is_made(small_store: Path) -> None:
    for strategy in ("bucket", "packed"):
        data = (parts := open_job(small_job(small_store, batching={"strategy": strategy}))).data
        [slice_, *_] = split_slice(parts.schedule.rank_step(0, 0, 0, 1)[0], 5)
        said = []
        for samples in (data.batch(slice_), data.stored_batch(slice_, None)):
            with pytest.raises(MicroBatchTooLargeError) as caught, explained_memory(MicroBatch(samples, 0, 0), 0):
                torch.empty(2**50)
            said.append(str(caught.value))
        assert said[0] == said[1]


@pytest.mark.parametrize(("asked", "cores", "threads"), [(None, 12, 11), (None, 2, 1), (None, 1, 1), (3, 12, 3)])
def test_a_rank_prepares_batches_on_the_cores_that_training_leaves(
    asked: int | None, cores: int, threads: int, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orchestrator.training.build as build

    made = {}
    monkeypatch.setattr(build, "StepLoader", lambda *_, **options: made.update(options))
    job = small_job(small_store, train={"loader_threads": asked})
    parts = open_job(job)
    engine = SimpleNamespace(device=torch.device("cpu"))
    Parts(
        directory=None, job=job, spec=parts.spec, data=parts.data, batches=ScheduledBatches(parts.schedule, 0, 1),
        placement=None, engine=engine, adjustments=Adjustments(), peak_flops=None, threads=cores,
    ).loader()  # fmt: skip
    assert made["threads"] == threads and made["device"] == torch.device("cpu")


def test_the_threads_take_the_device_of_their_rank(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    use_device(torch.device("cuda", 3))
    use_device(torch.device("cpu"))
    assert taken == [torch.device("cuda", 3)]
    parts = open_job(small_job(small_store))
    used: list[torch.device] = []
    monkeypatch.setattr("orchestrator.training.loader.use_device", used.append)
    batches = ScheduledBatches(parts.schedule, 0, 1)
    placement = SharedPlacement(parts.data.store)
    with StepLoader(parts.data, batches, placement, micro_batch=4, threads=2, prefetch=3) as loader:
        next(iter(loader))
    assert used and set(used) == {torch.device("cpu")}
    # The main thread's device, where the loader is given none by number.
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr(NormalTables, "on", lambda device: None)
    with StepLoader(
        parts.data, batches, placement, micro_batch=4, threads=1, prefetch=1, device=torch.device("cuda")
    ) as loader:
        assert loader.device == torch.device("cuda", 5)


def shared_loading(job: Any, steps: int) -> list[tuple[Any, ...]]:
    """What a rank's loader says of the first steps over all ranks, as ``Parts.loader`` makes it."""
    import torch.distributed as dist

    from orchestrator.training.collectives import gather_rows

    parts = open_job(job)
    rank, world = dist.get_rank(), dist.get_world_size()
    batches, placement = ScheduledBatches(parts.schedule, rank, world), SharedPlacement(parts.data.store)
    sharing = Sharing(rank, world, partial(gather_rows, device=torch.device("cpu")))
    with StepLoader(parts.data, batches, placement, micro_batch=16, threads=1, prefetch=2, sharing=sharing) as loader:
        found = []
        for batch, _ in zip(loader, range(steps), strict=False):
            whole = parts.schedule.global_step(batch.epoch, batch.step)
            assert batch.denominators.tolist() == parts.data.denominators(whole).tolist()
            assert batch.imbalance == step_imbalance(parts.schedule, whole, world)
            found.append((batch.step, batch.denominators.tolist(), batch.valid_tokens, batch.valid_flops))
    return found


def test_ranks_share_the_look_at_whole_batches(ranks: Any, small_store: Path) -> None:
    first, second = ranks(2, shared_loading, small_job(small_store), 7)
    assert first == second and [step for step, *_ in first] == list(range(7))
