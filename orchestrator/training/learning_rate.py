"""The learning rate as a pure function of the step: linear warm-up, then half a cosine (HeterCSI, util/lr_sched)."""

import math

from orchestrator.spec.train import TrainSection


def learning_rate(position: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    """Rate at ``position`` epochs into a run of ``total`` epochs whose first ``warmup`` epochs rise from zero."""
    if position < warmup:
        return peak * position / warmup
    progress = min(1.0, (position - warmup) / max(total - warmup, 1e-12))
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def job_rate(train: TrainSection, epoch: int, step: int, steps: int) -> float:
    """Rate of a job at a step of an epoch of so many steps."""
    return learning_rate(
        epoch + step / steps, peak=train.lr, floor=train.min_lr, warmup=train.warmup_epochs, total=float(train.epochs)
    )
