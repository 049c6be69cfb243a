"""One optimizer step under DeepSpeed ZeRO: exact normalisation over ranks, micro-batches and fillers."""

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models.interface import MaskDraw, PretrainingModel
from models.parameters import optimizer_groups
from orchestrator.config import TrainSection
from orchestrator.failures import TrainingDivergedError
from orchestrator.loader import StepBatch
from orchestrator.signals import SILENCE, Signals


@dataclass(frozen=True, slots=True)
class StepResult:
    """What all ranks agree on after a step."""

    losses: tuple[float, ...]
    """Mean squared error of each task over the masked tokens of the global batch."""
    grad_norm: float
    padded_tokens: int
    """Tokens computed by all ranks, padding included."""
    computed_flops: float
    """Operations of all ranks, padding included."""
    signals: Signals
    """How many ranks said what."""
    rank_seconds: tuple[float, ...]
    """What each rank computed before it waited for the others."""


def set_up_deepspeed(device: str) -> None:
    """Import DeepSpeed for this device, without what a worker has no use for.

    Its autotuner imports MLflow where there is one, which takes as long as DeepSpeed itself; on a CPU it compiles a
    shared-memory operation for two minutes.
    """
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _hidden("mlflow"):
        torch_backend = importlib.import_module("deepspeed.comm.torch")
    if device == "cpu":
        setattr(torch_backend, "build_shm_op", lambda: None)  # noqa: B010


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports of a package fail for the time of a ``with``, unless it has been imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def deepspeed_config(train: TrainSection) -> dict[str, Any]:
    """DeepSpeed's configuration; batch sizes are ours, so it counts one micro-batch a step."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.clip_norm,
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bf16"},
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
    }


class TrainingEngine:
    """A model under DeepSpeed, on one rank."""

    def __init__(self, model: PretrainingModel, train: TrainSection, *, device: str, tasks: int) -> None:
        set_up_deepspeed(device)
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
        optimizer = torch.optim.AdamW(
            [dict(group) for group in optimizer_groups(model, train.weight_decay)],
            lr=train.lr,
            betas=train.betas,
            fused=device == "cuda",
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(train), dist_init_required=False
        )
        self.device = self.deepspeed.device
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._tasks = tasks

    def step(self, batch: StepBatch, seed: int, lr: float, signals: Signals = SILENCE) -> StepResult:
        """Train on one global batch.

        The gradient is that of the mean over tasks of (sum of errors / masked tokens of the global batch), whatever
        the world size, the micro-batches and the fillers: DeepSpeed divides by the world size, so it is put back here.

        Raises:
            TrainingDivergedError: on all ranks, if any rank saw a loss that is not finite; no weight has changed then.
        """
        self._started = time.perf_counter()
        engine = self.deepspeed
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        scale = torch.from_numpy(task_scale(batch.denominators)).to(self.device)
        sums = torch.zeros(self._tasks, dtype=torch.float32, device=self.device)
        last = len(batch.micro_batches) - 1
        for number, (micro, epoch) in enumerate(zip(batch.micro_batches, batch.draws, strict=True)):
            engine.set_gradient_accumulation_boundary(number == last)
            part = engine(micro.to(self.device, non_blocking=True), MaskDraw(seed=seed, epoch=epoch))
            sums += part.detach()
            if number == last:
                losses, padded, flops, signals, rank_seconds = self._agree(sums * scale, batch, signals)
            engine.backward((part * scale).sum() * self.world)
            if number != last:
                engine.step()
        plain = self._plain_norm()
        engine.step()
        norm = engine.get_global_grad_norm() if plain is None else plain
        return StepResult(tuple(losses * active_tasks(batch)), float(norm), padded, flops, signals, rank_seconds)

    def _plain_norm(self) -> float | None:
        """Norm before clipping where DeepSpeed leaves clipping to torch and forgets the norm (stage 0 in fp32)."""
        if not isinstance(self.deepspeed.optimizer, torch.optim.AdamW):
            return None
        gradients = [parameter.grad for parameter in self.deepspeed.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _agree(
        self, share: Tensor, batch: StepBatch, signals: Signals
    ) -> tuple[NDArray[np.float64], int, float, Signals, tuple[float, ...]]:
        """Sum losses, padding, work and signals over the ranks; raise everywhere if one rank's loss is not finite."""
        finite = bool(torch.isfinite(share).all())
        work = (batch.padded_tokens, batch.computed_flops)
        said = torch.tensor([*work, *signals.values()], dtype=torch.float64, device=self.device)
        ranks = torch.zeros(2, self.world, dtype=torch.float64, device=self.device)
        ranks[:, self.rank] = torch.tensor([float(not finite), time.perf_counter() - self._started])
        report = torch.cat([share.double() if finite else torch.zeros_like(share).double(), said, ranks.flatten()])
        dist.all_reduce(report)
        losses, (padded, flops, *agreed), of_ranks = np.split(
            report.cpu().numpy(), [self._tasks, self._tasks + len(said)]
        )
        not_finite, seconds = of_ranks.reshape(2, self.world)
        bad = np.flatnonzero(not_finite)
        if len(bad):
            raise TrainingDivergedError(
                f"loss is NaN or infinite at epoch {batch.epoch}, step {batch.step} of the epoch, "
                f"rank {', '.join(map(str, bad))}, bucket {batch.bucket}"
            )
        return losses, int(padded), float(flops), Signals(*map(int, agreed)), tuple(seconds)

    def full_weights(self) -> dict[str, Tensor]:
        """All parameters and buffers in fp32 on the CPU (collective: every rank calls it, rank 0 gets the result)."""
        from deepspeed.utils import safe_get_full_fp32_param

        module = self.deepspeed.module
        weights: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
            if self.rank == 0:
                weights[name] = (parameter.data if full is None else full).detach().float().cpu().contiguous()
        if self.rank == 0:
            persistent = module.state_dict().keys()
            weights |= {name: buffer.cpu() for name, buffer in module.named_buffers() if name in persistent}
        return weights


def task_scale(denominators: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the sum of each task is multiplied by: 1 / (masked tokens x tasks that have any), float32 [tasks]."""
    present = denominators > 0
    count = max(int(present.sum()), 1)
    return np.where(present, 1.0 / np.maximum(denominators, 1.0) / count, 0.0).astype(np.float32)


def active_tasks(batch: StepBatch) -> int:
    """Tasks with at least one masked token in the global batch."""
    return max(int((batch.denominators > 0).sum()), 1)
