"""Weights that training leaves alone: they are neither moved nor saved, and every export has them whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job


def train_half(job: JobSpec) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """Weights before and after a step of a model whose first layer is frozen, and what of it is saved."""
    import torch

    from orchestrator.checkpoint.fragments import TrainingState
    from orchestrator.training.engine import TrainingEngine

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
    model[0].requires_grad_(False)
    engine = TrainingEngine(model, job.train, device="cpu", tasks=1)  # type: ignore[arg-type]
    before = {name: value.numpy().copy() for name, value in engine.full_weights().items()}
    engine.deepspeed.optimizer.param_groups[0]["lr"] = 0.1
    engine.deepspeed.backward(engine.deepspeed(torch.ones(1, 4)).sum())
    engine.deepspeed.step()
    state = TrainingState(engine.deepspeed, engine.rank, engine.world)
    saved = sorted({fragment.name for fragment in state.share()} | state.sizes.keys())
    return before, {name: value.numpy().copy() for name, value in engine.full_weights().items()}, saved


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_frozen_weights_stay_and_are_exported_whole(ranks: Any, small_store: Path, stage: int) -> None:
    (before, after, saved), (_, _, others) = ranks(2, train_half, small_job(small_store, train={"zero_stage": stage}))
    assert set(saved) | set(others) == {"1.weight", "1.bias"}
    assert {name: value.shape for name, value in after.items()} == {
        "0.weight": (6, 4), "0.bias": (6,), "1.weight": (2, 6), "1.bias": (2,)
    }  # fmt: skip
    for name in ("0.weight", "0.bias"):
        np.testing.assert_array_equal(after[name], before[name])
    assert not np.array_equal(after["1.weight"], before["1.weight"])
