"""What a sample counts in the loss of a step: as its masked tokens, or as one sample."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.interface import MaskDraw
from models.registry import make_spec
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.data import DataSection
from orchestrator.spec.train import LossWeighting
from samplers.schedule import Slice

MODELS = {
    "hetercsi": {"size": "tiny"},
    "lwm": {"size": "tiny", "patches": [4], "dropout": 0.0},
}
SOURCES = [0, 1, 3, 1, 2, 0]
"""Sets of the small store, of 8, 16, 12 and 6 tokens (the last one in partial patches)."""
DRAW = MaskDraw(seed=1, epoch=0)


def slice_of(sources: list[int], weight: list[float] | None = None) -> Slice:
    count = len(sources)
    weights = np.asarray(weight or [1.0] * count, np.float32)
    return Slice(0, 4, np.asarray(sources, np.int32), np.arange(count, dtype=np.int64), weights, 0)


def opened(store: Path, name: str, weighting: LossWeighting, packed: bool = False) -> TrainingData:
    spec = make_spec(name, MODELS[name])
    section = DataSection(store=store, snr_db=None)
    return open_training_data(section, spec, 0, packed=packed, loss_weighting=weighting)[1]


def losses(data: TrainingData, slice_: Slice) -> NDArray[np.float64]:
    """Mean loss [tasks] of a step of one micro-batch, as the engine takes it."""
    model = data.spec.build(seed=2)
    with torch.no_grad():
        sums = model(data.batch(slice_), DRAW).double().numpy()
    return np.asarray(sums / np.maximum(data.denominators([slice_]), 1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_by_sample_the_loss_is_the_mean_of_the_samples_own(name: str, packed: bool, small_store: Path) -> None:
    data = opened(small_store, name, "sample", packed)
    together = losses(data, slice_of(SOURCES))
    alone = []
    for number, source in enumerate(SOURCES):
        one = slice_of(SOURCES, [float(number == other) for other in range(len(SOURCES))])
        alone.append(losses(data, one))
        tokens = opened(small_store, name, "token", packed)
        assert alone[-1] == pytest.approx(losses(tokens, one), rel=1e-5), f"alone a sample of set {source} is its mean"
    assert together == pytest.approx(np.mean(alone, axis=0), rel=1e-5)


@pytest.mark.parametrize("weighting", ["token", "sample"])
def test_what_a_short_sample_counts_in_a_mixed_batch(weighting: LossWeighting, small_store: Path) -> None:
    """8 tokens beside 16: a third by token, a half by sample; 1 and 1 in batches of their own."""
    data = opened(small_store, "hetercsi", weighting)
    short, long = (losses(data, slice_of([source] * 2, weight)) for source, weight in ((0, [1, 0]), (1, [0, 1])))
    mixed = losses(data, slice_of([0, 1]))
    time = data.spec.tasks.index("time")
    share = (mixed[time] - long[time]) / (short[time] - long[time])
    assert share == pytest.approx(1 / 3 if weighting == "token" else 1 / 2, abs=1e-3)


def test_a_sample_that_masks_nothing_in_a_task_counts_in_the_others(small_store: Path) -> None:
    """Its weight and its share of the denominator are zero in that task, not infinite."""
    targets = np.array([[3.0, 0.0], [5.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    data = replace(opened(small_store, "hetercsi", "sample"), targets=targets)
    slice_ = slice_of([0, 0, 1], [1, 0, 1])
    assert data.denominators([slice_]).tolist() == [2.0, 1.0]
    weights = data.batch(slice_).task_weight
    assert weights is not None
    np.testing.assert_allclose(weights.numpy(), [[1 / 3, 0, 1 / 5], [0, 0, 1 / 2]], rtol=1e-6)


def test_fillers_count_nothing(small_store: Path) -> None:
    data = opened(small_store, "hetercsi", "sample")
    with_fillers = losses(data, slice_of([0, 1, 2, 2], [1, 1, 0, 0]))
    assert with_fillers == pytest.approx(losses(data, slice_of([0, 1])), rel=1e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_by_token_batches_are_as_before(packed: bool, small_store: Path) -> None:
    assert opened(small_store, "hetercsi", "token", packed).batch(slice_of(SOURCES)).task_weight is None
    batch = opened(small_store, "hetercsi", "sample", packed).batch(slice_of(SOURCES))
    assert batch.task_weight is not None and batch.task_weight.shape == (3, 6)
    assert batch.to("meta").task_weight.device.type == "meta"
    order = np.sort(SOURCES)
    targets = opened(small_store, "hetercsi", "token").targets[order].T
    np.testing.assert_allclose(batch.task_weight.numpy() * targets, (targets > 0).astype(float), rtol=1e-6)
