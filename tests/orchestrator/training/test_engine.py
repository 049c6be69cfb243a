"""The step on real gloo ranks: every ZeRO stage, any world size, micro-batches and fillers give the same numbers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job

STEPS = 5


def train_some(job: JobSpec, steps: int) -> dict[str, Any]:
    """Losses, gradient norms and final weights of the first steps, on one rank of the current group."""
    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
    schedule = make_schedule(job, catalogue, data.flops)
    batches = ScheduledBatches(schedule, dist.get_rank(), dist.get_world_size())
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    results, ids = [], []
    with StepLoader(
        data, batches, SharedPlacement(data.store), micro_batch=job.batching.micro_batch, threads=1, prefetch=2
    ) as loader:
        for batch, _ in zip(loader, range(steps), strict=False):
            results.append(engine.step(batch, job.seed, lr=1e-3))
            ids.append(np.concatenate([np.c_[held.source, held.index, held.weight] for held in batch.slices]))
    weights = engine.full_weights()
    return {
        "losses": np.array([result.losses for result in results]),
        "norms": np.array([result.grad_norm for result in results]),
        "weights": {name: tensor.numpy() for name, tensor in weights.items()},
        "ids": ids,
    }


@pytest.fixture(scope="module")
def reference(ranks: Any, small_store: Path) -> dict[str, Any]:
    """One rank, no ZeRO, one micro-batch a step."""
    [result] = ranks(1, train_some, small_job(small_store, train={"zero_stage": 0}), STEPS)
    return result


def assert_same_training(result: dict[str, Any], reference: dict[str, Any], tolerance: float) -> None:
    np.testing.assert_allclose(result["losses"], reference["losses"], rtol=tolerance)
    np.testing.assert_allclose(result["norms"], reference["norms"], rtol=10 * tolerance)
    for name, weight in reference["weights"].items():
        np.testing.assert_allclose(result["weights"][name], weight, atol=20 * tolerance, err_msg=name)


def train_odd_model(job: JobSpec) -> float:
    """One element of a model of three parameters after a step."""
    import torch

    from orchestrator.training.engine import TrainingEngine

    model = torch.nn.Linear(2, 1)
    engine = TrainingEngine(model, job.train, device="cpu", tasks=1).deepspeed  # type: ignore[arg-type]
    engine.optimizer.param_groups[0]["lr"] = 1.0
    before = model.weight[0, 0].item()
    engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    return before - model.weight[0, 0].item()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_model_may_have_an_odd_number_of_parameters(ranks: Any, small_store: Path, stage: int) -> None:
    [moved] = ranks(1, train_odd_model, small_job(small_store, train={"zero_stage": stage}))
    assert moved != 0


def test_training_moves(reference: dict[str, Any]) -> None:
    assert np.isfinite(reference["losses"]).all()
    assert reference["losses"][-1].mean() < reference["losses"][0].mean()
    assert (reference["norms"] > 0).all()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_on_two_ranks_equals_one_rank(
    ranks: Any, small_store: Path, reference: dict[str, Any], stage: int
) -> None:
    results = ranks(2, train_some, small_job(small_store, train={"zero_stage": stage}), STEPS)
    assert_same_training(results[0], reference, 2e-5)
    np.testing.assert_array_equal(results[0]["losses"], results[1]["losses"])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_four_ranks_equal_one_rank(ranks: Any, small_store: Path, reference: dict[str, Any], stage: int) -> None:
    results = ranks(4, train_some, small_job(small_store, train={"zero_stage": stage}), STEPS)
    assert_same_training(results[0], reference, 2e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_micro_batches_change_nothing(ranks: Any, small_store: Path, reference: dict[str, Any], stage: int) -> None:
    job = small_job(small_store, train={"zero_stage": stage}, batching={"micro_batch": 3})
    results = ranks(2, train_some, job, STEPS)
    assert_same_training(results[0], reference, 2e-5)


def test_the_steps_compared_hold_fillers_and_several_buckets(ranks: Any, small_store: Path) -> None:
    """Otherwise the equalities above would say less than they seem to."""
    [result] = ranks(1, train_some, small_job(small_store, train={"zero_stage": 0}), 12)
    weights = np.concatenate([ids[:, 2] for ids in result["ids"]])
    assert 0 < (weights == 0).sum() < len(weights)


@pytest.mark.parametrize(("precision", "stage"), [("bf16", 0), ("bf16", 2), ("bf16", 3), ("bf16_pure", 2)])
def test_bf16_trains(ranks: Any, small_store: Path, reference: dict[str, Any], precision: str, stage: int) -> None:
    job = small_job(small_store, train={"zero_stage": stage, "precision": precision})
    results = ranks(2, train_some, job, STEPS)
    np.testing.assert_allclose(results[0]["losses"], reference["losses"], rtol=0.05)
    assert not np.array_equal(results[0]["losses"], reference["losses"]), "nothing was computed in bf16"


def kept_types(job: JobSpec) -> set[str]:
    """Types of the weights, of what AdamW steps and of sums of gradients, on one rank of the current group."""
    from models.registry import make_spec
    from orchestrator.training.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks)).deepspeed
    return (
        {str(parameter.dtype) for parameter in engine.module.parameters()}
        | {str(tensor.dtype) for group in engine.optimizer.param_groups for tensor in group["params"]}
        | {str(engine.get_data_types()[1])}
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_mixed_precision_keeps_everything_in_fp32(ranks: Any, small_store: Path, stage: int) -> None:
    """Weights, optimizer and sums of gradients: A, step bias and skip of a scan would not survive bfloat16."""
    job = small_job(small_store, train={"zero_stage": stage, "precision": "bf16"})
    assert ranks(1, kept_types, job) == [{"torch.float32"}]


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
@pytest.mark.parametrize("stage", [0, 2])
def test_the_first_update_in_bf16_is_the_learning_rate(
    ranks: Any, small_store: Path, stage: int, precision: str
) -> None:
    """AdamW moves every weight by the rate at its first step; another step before it would change that."""
    job = small_job(small_store, train={"zero_stage": stage, "precision": precision, "weight_decay": 0.0})
    before, after = (ranks(1, train_some, job, steps)[0]["weights"] for steps in (0, 1))
    moved = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in before])
    # Pure bf16 exports its rounded weights.
    assert np.median(moved[moved > 0]) == pytest.approx(1e-3, rel=0.05)


def test_no_clipping_and_clipping_give_the_same_norm(ranks: Any, small_store: Path) -> None:
    """Stage 0 clips itself, the others by DeepSpeed: the norm reported is that before clipping."""
    results = [
        ranks(1, train_some, small_job(small_store, train={"zero_stage": stage, "clip_norm": clip}), STEPS)[0]
        for stage, clip in ((0, 0.5), (2, 0.5), (0, 0.0), (2, 0.0))
    ]
    np.testing.assert_allclose(results[0]["norms"], results[1]["norms"], rtol=2e-4)
    np.testing.assert_allclose(results[0]["losses"], results[1]["losses"], rtol=2e-5)
    np.testing.assert_allclose(results[2]["losses"], results[3]["losses"], rtol=2e-5)
    assert results[0]["norms"][0] == results[2]["norms"][0] > 0.5


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_recomputed_activations_change_nothing(
    ranks: Any, small_store: Path, reference: dict[str, Any], stage: int
) -> None:
    job = small_job(small_store, train={"zero_stage": stage, "activation_checkpointing": True})
    results = ranks(2, train_some, job, STEPS)
    assert_same_training(results[0], reference, 2e-5)


def norms_by_weight(job: JobSpec) -> list[tuple[float, float]]:
    """Of every step of an epoch its weight, and the gradient's norm over that of the same step with weight 1."""
    from dataclasses import replace

    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed)
    batches = ScheduledBatches(make_schedule(job, catalogue, data.flops), dist.get_rank(), dist.get_world_size())
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    found = []
    with StepLoader(data, batches, SharedPlacement(data.store), micro_batch=3, threads=1, prefetch=1) as loader:
        for batch in loader:
            if batch.epoch:
                break
            # A learning rate of 0 leaves the model as it is.
            plain = engine.step(replace(batch, weight=1.0), job.seed, lr=0.0)
            weighted = engine.step(batch, job.seed, lr=0.0)
            assert weighted.losses == plain.losses
            found.append((batch.weight, weighted.grad_norm / plain.grad_norm))
    return found


def test_a_step_counts_by_its_true_samples(ranks: Any, small_store: Path) -> None:
    [alone] = ranks(1, norms_by_weight, small_job(small_store, train={"zero_stage": 0}))
    for stage in (0, 2):
        found = ranks(2, norms_by_weight, small_job(small_store, train={"zero_stage": stage}))[1]
        assert [weight for weight, _ in found] == [weight for weight, _ in alone]
        assert min(found)[0] < max(found)[0] == 1.0
        for weight, ratio in found:
            assert ratio == pytest.approx(weight, rel=1e-4)


def collectives_of_a_step(job: JobSpec) -> tuple[int, int]:
    """Micro-batches of the second step, and the collectives it takes."""
    import torch.distributed as dist
    from torch.profiler import profile

    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed)
    batches = ScheduledBatches(make_schedule(job, catalogue, data.flops), dist.get_rank(), dist.get_world_size())
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    with StepLoader(
        data, batches, SharedPlacement(data.store), micro_batch=job.batching.micro_batch, threads=1, prefetch=1
    ) as loader:
        steps = iter(loader)
        engine.step(next(steps), job.seed, lr=1e-3)
        batch = next(steps)
        with profile() as recorded:
            engine.step(batch, job.seed, lr=1e-3)
    return len(batch.micro_batches), sum(event.name.startswith("gloo:") for event in recorded.events())


@pytest.mark.parametrize(("stage", "once"), [(0, True), (1, True), (2, False)])
def test_gradients_are_reduced_once_a_step_where_the_stage_allows(
    ranks: Any, small_store: Path, stage: int, once: bool
) -> None:
    """Stage 2 keeps a share of the gradients only, so it must reduce those of every micro-batch."""
    counts = [
        ranks(2, collectives_of_a_step, small_job(small_store, train={"zero_stage": stage}, batching=batching))[0]
        for batching in ({}, {"micro_batch": 2})
    ]
    (few, reduced_few), (many, reduced_many) = counts
    assert few == 1 < many and reduced_few > 0
    assert (reduced_many == reduced_few) == once


def diverge(job: JobSpec) -> str:
    """Rank 1 sees a NaN; every rank must learn of it."""
    import torch
    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data
    from orchestrator.run.failures import TrainingDivergedError
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
    batches = ScheduledBatches(make_schedule(job, catalogue, data.flops), dist.get_rank(), dist.get_world_size())
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    before = {name: tensor.clone() for name, tensor in engine.full_weights().items()}
    with StepLoader(data, batches, SharedPlacement(data.store), micro_batch=16, threads=1, prefetch=1) as loader:
        batch = next(iter(loader))
        if dist.get_rank() == 1:
            batch.micro_batches[0].samples.tokens.fill_(float("nan"))
        try:
            engine.step(batch, job.seed, lr=1e-3)
        except TrainingDivergedError as error:
            after = engine.full_weights()
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
            return str(error)
    return "no error"


def test_a_loss_that_is_not_finite_stops_all_ranks_before_the_weights_change(ranks: Any, small_store: Path) -> None:
    messages = ranks(2, diverge, small_job(small_store))
    assert messages[0] == messages[1]
    for part in ("NaN", "step 0", "rank 1", "bucket"):
        assert part in messages[0]


def exhaust(job: JobSpec, number: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(bucket, samples) of each micro-batch of a step, and (bucket, samples to try) where one pass has no memory."""
    import torch.distributed as dist

    from orchestrator.run.failures import MicroBatchTooLargeError
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.build import open_job
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    parts = open_job(job)
    batches = ScheduledBatches(parts.schedule, dist.get_rank(), dist.get_world_size())
    engine = TrainingEngine(parts.spec.build(job.seed), job.train, device="cpu", tasks=len(parts.spec.tasks))
    passes = iter(range(number + 1))
    forward = engine.deepspeed.forward

    def limited(*arguments: Any, **options: Any) -> Any:
        if next(passes) == number:
            raise RuntimeError("could not create a primitive")
        return forward(*arguments, **options)

    engine.deepspeed.forward = limited
    placement = SharedPlacement(parts.data.store)
    with StepLoader(parts.data, batches, placement, micro_batch=16, threads=1, prefetch=1) as loader:
        for batch in loader:
            held = [(micro.bucket, len(micro.samples.grid)) for micro in batch.micro_batches]
            if len(dict(held)) == 2:
                try:
                    engine.step(batch, job.seed, lr=1e-3)
                except MicroBatchTooLargeError as error:
                    return held, (error.bucket, error.fitting)
    raise AssertionError("no step of two buckets ran out of memory")


@pytest.mark.parametrize("number", [0, 1])
def test_memory_that_runs_out_is_charged_to_the_bucket_of_the_pass(ranks: Any, small_store: Path, number: int) -> None:
    batching = {"slices": 2, "mix": "step", "global_batch": 32}
    [(held, charged)] = ranks(1, exhaust, small_job(small_store, batching=batching), number)
    assert charged == (held[number][0], held[number][1] // 2)


def test_deepspeed_comes_without_mlflow() -> None:
    """Workers never talk to MLflow, whose import would double their start."""
    lines = (
        "import sys",
        "from orchestrator.checkpoint.deepspeed_private import set_up_deepspeed",
        "set_up_deepspeed('cpu')",
        "print('deepspeed' in sys.modules, 'mlflow' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["True", "False"]
