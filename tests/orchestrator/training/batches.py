"""Batches and results of steps that no engine has seen."""

import numpy as np

from orchestrator.run.signals import SILENCE, Signals
from orchestrator.training.loader import StepBatch
from orchestrator.training.step_report import StepResult
from samplers.schedule import Slice


def slice_of(index: list[int], weight: list[float] | None = None, source: int = 0) -> Slice:
    """Samples of one source."""
    weights = np.asarray(weight or [1.0] * len(index), np.float32)
    return Slice(0, 4, np.full(len(index), source, np.int32), np.asarray(index, np.int64), weights, epoch=0)


def step_batch(
    step: int, *, epoch: int = 0, slices: tuple[Slice, ...] = (), tokens: int = 8, weight: float = 1.0
) -> StepBatch:
    """A batch of two tasks, of which the second masks nothing."""
    true = sum(int((held.weight > 0).sum()) for held in slices)
    return StepBatch(
        epoch=epoch, step=step, micro_batches=(), denominators=np.array([4.0, 0.0]), valid_tokens=tokens,
        padded_tokens=tokens, valid_flops=1.0, computed_flops=1.0, source_entropy=0.0, imbalance=0.0, bucket=0,
        slices=slices, weight=weight, true_samples=max(true, 1),
    )  # fmt: skip


def step_result(loss: float = 1.0, signals: Signals = SILENCE, padded: int = 10) -> StepResult:
    """What two ranks agree on."""
    return StepResult((loss, 0.0), 1.0, padded, 2.0, signals, np.array([0.5, 0.5]))
