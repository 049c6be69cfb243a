"""Steps on the device: every ZeRO stage and precision against plain torch on the CPU, and no wait in a step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.spec.job import JobSpec
from orchestrator.training.build import open_job
from tests.gpu.training import RATE, Trained, batches_of, make_engine, train_by_hand, train_some
from tests.jobs_for_tests import small_job

pytestmark = pytest.mark.gpu
STEPS = 5
TOLERANCE = {"fp32": 2e-5, "bf16": 0.02, "bf16_pure": 0.03}
PACKED = {"strategy": "packed", "micro_batch": 6}
PADDED = {"micro_batch": 6}


@pytest.fixture(scope="module")
def by_hand(store: Path) -> Callable[[JobSpec], Trained]:
    """The same steps by plain torch, once a kind of batch."""
    made: dict[bool, Trained] = {}

    def result(job: JobSpec) -> Trained:
        packed = job.batching.packed
        if packed not in made:
            made[packed] = train_by_hand(job, STEPS)
        return made[packed]

    return result


@pytest.mark.parametrize("batching", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.usefixtures("one_rank")
def test_every_stage_and_precision_gives_the_losses_of_plain_torch(
    store: Path,
    device: str,
    by_hand: Callable[[JobSpec], Trained],
    stage: int,
    precision: str,
    batching: dict[str, object],
) -> None:
    job = small_job(store, train={"zero_stage": stage, "precision": precision}, batching=batching)
    found, expected = train_some(job, STEPS, device), by_hand(job)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=TOLERANCE[precision])
    np.testing.assert_allclose(found.norms, expected.norms, rtol=10 * TOLERANCE[precision])
    assert found.losses[-1].mean() < 0.8 * found.losses[0].mean()


@pytest.mark.usefixtures("one_rank", "on_gpu")
@pytest.mark.parametrize("batching", [PADDED, PACKED], ids=["padded", "packed"])
def test_compiled_blocks_give_the_same_losses(store: Path, batching: dict[str, object]) -> None:
    """Of one set: every length is a graph more where batches are padded. On a CPU tests of the blocks compile."""
    job = small_job(
        store,
        data={"sets": ["R1"]},
        train={"zero_stage": 1, "precision": "bf16", "compile": True},
        batching=batching | {"buckets": 1},
    )
    found, expected = train_some(job, 2, "cuda"), train_by_hand(job, 2)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=TOLERANCE["bf16"])


@pytest.mark.usefixtures("one_rank", "on_gpu")
@pytest.mark.parametrize("batching", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_step_waits_for_nothing(store: Path, stage: int, precision: str, batching: dict[str, object]) -> None:
    """Clipping included. Stage 3 waits for weights that it gathers."""
    job = small_job(store, train={"zero_stage": stage, "precision": precision}, batching=batching)
    parts = open_job(job)
    engine = make_engine(parts, "cuda")
    for number, batch in enumerate(batches_of(parts, 4, "cuda")):
        torch.cuda.synchronize()
        if number >= 2:
            torch.cuda.set_sync_debug_mode("error")
        try:
            report = engine.begin(batch, job.seed, lr=RATE)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert np.isfinite(report.read().losses).all()


@pytest.mark.usefixtures("one_rank")
def test_a_gradient_that_is_not_finite_ends_the_run(store: Path, device: str) -> None:
    """The norm is not looked at before the step, so the report must find it."""
    from orchestrator.run.failures import TrainingDivergedError

    for stage in (0, 1, 2):
        job = small_job(store, train={"zero_stage": stage})
        parts = open_job(job)
        engine = make_engine(parts, device)
        with pytest.raises(TrainingDivergedError, match="NaN or infinite"):
            for batch in batches_of(parts, 3, device):
                engine.step(batch, job.seed, lr=1e30)


@pytest.mark.usefixtures("one_rank", "on_gpu")
def test_memory_comes_in_segments_that_grow(store: Path) -> None:
    train_some(small_job(store), 1, "cuda")
    assert any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())
