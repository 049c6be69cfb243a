"""Steps of a job on this process's rank, and the same steps by nothing but torch, on the CPU in float32."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.interface import MaskDraw
from models.layers.parameters import optimizer_groups
from orchestrator.shard_cache.placement import SharedPlacement
from orchestrator.spec.job import JobSpec
from orchestrator.training.build import JobParts, open_job
from orchestrator.training.engine import TrainingEngine, task_scale
from orchestrator.training.loader import StepBatch, StepLoader
from samplers.batches import ScheduledBatches

RATE = 1e-3


@dataclass(frozen=True)
class Trained:
    """losses: [steps, tasks]. norms: [steps], of the gradients before clipping."""

    losses: NDArray[np.float64]
    norms: NDArray[np.float64]


def batches_of(parts: JobParts, steps: int, device: str = "cpu") -> Iterator[StepBatch]:
    """The first batches of a job, on a GPU as it makes them itself."""
    job = parts.job
    batches = ScheduledBatches(parts.schedule, 0, 1)
    with StepLoader(
        parts.data,
        batches,
        SharedPlacement(parts.data.store),
        micro_batch=job.batching.micro_batch,
        threads=1,
        prefetch=2,
        device=torch.device(device),
    ) as loader:
        yield from (batch for batch, _ in zip(loader, range(steps), strict=False))


def make_engine(parts: JobParts, device: str) -> TrainingEngine:
    """The engine of a job."""
    model = parts.spec.build(parts.job.seed)
    return TrainingEngine(model, parts.job.train, device=device, tasks=len(parts.spec.tasks), packed=parts.data.packed)


def train_some(job: JobSpec, steps: int, device: str) -> Trained:
    """By the engine."""
    parts = open_job(job)
    engine = make_engine(parts, device)
    results = [engine.step(batch, job.seed, lr=RATE) for batch in batches_of(parts, steps, device)]
    return Trained(np.array([result.losses for result in results]), np.array([result.grad_norm for result in results]))


def train_by_hand(job: JobSpec, steps: int) -> Trained:
    """By a loop of torch."""
    parts = open_job(job)
    model = parts.spec.build(job.seed)
    optimizer = torch.optim.AdamW(optimizer_groups(model, job.train.weight_decay), lr=RATE, betas=job.train.betas)
    losses, norms = [], []
    for batch in batches_of(parts, steps):
        scale = torch.from_numpy(task_scale(batch.denominators))
        sums: Any = 0.0
        for micro in batch.micro_batches:
            part = model(micro.samples, MaskDraw(seed=job.seed, epoch=micro.epoch))
            ((part * scale).sum() * batch.weight).backward()
            sums = sums + part.detach()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), job.train.clip_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append((sums * scale * int((batch.denominators > 0).sum())).tolist())
    return Trained(np.array(losses), np.array(norms))
