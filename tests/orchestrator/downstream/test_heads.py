"""Heads: their shapes, what they learn, that the same seed gives the same numbers; the linear one is least squares."""

import numpy as np
import pytest
import torch

from orchestrator.downstream.heads import Scaling, build_head, train_head
from orchestrator.downstream.interpolation import PatchSet, error_db, solve
from orchestrator.downstream.task import SHIPPED, Task, Training, read_tasks


@pytest.mark.parametrize(
    ("name", "outputs", "shapes"),
    [
        ("los", 2, [(8, 128), (2, 8)]),
        ("beam", 64, [(256, 128), (128, 256), (64, 128)]),
        ("interpolation", 32, [(32, 128)]),
        ("localisation", 2, [(64, 128), (32, 64), (2, 32)]),
    ],
)
def test_shipped_heads_have_the_published_shapes(name: str, outputs: int, shapes: list[tuple[int, int]]) -> None:
    [task] = read_tasks([name])
    head = build_head(128, task.hidden, outputs, task.training).eval()
    linear = [tuple(layer.weight.shape) for layer in head if isinstance(layer, torch.nn.Linear)]
    assert linear == shapes
    assert head(torch.zeros(3, 128)).shape == (3, outputs)
    norms = [layer for layer in head if isinstance(layer, torch.nn.BatchNorm1d)]
    assert len(norms) == (len(task.hidden) if task.is_classification else 0)


def test_all_shipped_tasks_are_read() -> None:
    assert [task.name for task in read_tasks(SHIPPED)] == list(SHIPPED)


def task_of(**fields: object) -> Task:
    base = {"name": "x", "feature": "mean", "label": ["x"], "hidden": [16], "loss": "cross_entropy",
            "metrics": ["accuracy"], "training": {"epochs": 30, "batch": 32, "lr": 0.01}}  # fmt: skip
    return Task.model_validate({**base, **fields})


def test_a_head_learns_and_a_seed_decides_its_numbers() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 6)).astype(np.float32) * [1, 100, 0.01, 1, 1, 1] + 5
    classes = (features[:, 0] + (features[:, 1] - 5) / 100 > 5).astype(np.int64)
    rows = torch.from_numpy(features.astype(np.float32))
    state = torch.random.get_rng_state()
    task = task_of(training={"epochs": 30, "batch": 32, "lr": 0.01, "dropout": 0.1})
    found = [train_head(task, rows[:200], classes[:200], 2, rows[200:], seed) for seed in (1, 1, 2)]
    assert (found[0].argmax(axis=1) == classes[200:]).mean() > 0.9
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_numbers_come_back_on_their_own_scale() -> None:
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.normal(size=(300, 4)).astype(np.float32))
    targets = np.stack([1000 + 50 * features[:, 0].numpy(), 3 * features[:, 1].numpy()], axis=1)
    task = task_of(loss="mse", metrics=["mae_m"], training={"epochs": 80, "batch": 32, "lr": 0.01})
    found = train_head(task, features[:200], targets[:200], 2, features[200:], 0)
    assert np.abs(found - targets[200:]).mean(axis=0)[0] < 10
    assert found.shape == (100, 2)


def test_numbers_that_are_the_same_in_all_samples_are_only_shifted() -> None:
    rows = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    scaling = Scaling.of(rows)
    assert torch.equal(scaling.apply(rows), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(scaling.undo(scaling.apply(rows)), rows)


def patch_set(seed: int, length: int, counted: torch.Tensor, first: int, count: int = 40) -> PatchSet:
    draw = torch.Generator().manual_seed(seed)
    return PatchSet(
        features=torch.randn(count, length, 5, generator=draw),
        targets=torch.randn(count, length, 4, generator=draw),
        counted=counted,
        rows=np.arange(first, first + count),
    )


def test_the_linear_head_is_the_least_squares_over_what_is_counted() -> None:
    """Against numpy, an entry at a time; the two sets have other lengths and count other entries."""
    draw = torch.Generator().manual_seed(1)
    sets = [
        patch_set(0, 3, torch.rand(3, 4, generator=draw) > 0.4, 0),
        patch_set(1, 2, torch.rand(2, 4, generator=draw) > 0.4, 40),
    ]
    train, test = np.arange(10, 70), np.arange(70, 80)
    head = solve(sets, train)
    error, power = 0.0, 0.0
    for entry in range(4):
        inputs, wanted, tested = [], [], []
        for part in sets:
            for token in torch.flatten(torch.nonzero(part.counted[:, entry])).tolist():
                for row, sample in zip(part.rows, range(len(part.rows)), strict=True):
                    pair = (
                        np.append(part.features[sample, token].numpy(), 1.0),
                        float(part.targets[sample, token, entry]),
                    )
                    if row in train:
                        inputs.append(pair[0])
                        wanted.append(pair[1])
                    elif row in test:
                        tested.append(pair)
        if not inputs:
            continue
        weights = np.linalg.lstsq(np.asarray(inputs), np.asarray(wanted), rcond=None)[0]
        error += sum((weights @ features - truth) ** 2 for features, truth in tested)
        power += sum(truth**2 for _, truth in tested)
    found = error_db(lambda number, index: head(sets[number].features[torch.from_numpy(index)]), sets, test)
    assert found == pytest.approx(10 * np.log10(error / power), abs=1e-3)


def test_gradient_steps_go_to_the_same_head() -> None:
    from orchestrator.downstream.tuning import train_patches

    counted = torch.ones(3, 4, dtype=torch.bool)
    sets = [patch_set(0, 3, counted, 0, count=60)]
    sets[0].targets.copy_(sets[0].features[..., :4] * 2 + 1)
    train, test = np.arange(40), np.arange(40, 60)
    task = Task(name="x", feature="patches", loss="mse", metrics=("nmse_db",),
                training=Training(epochs=120, batch=20, lr=0.05, lr_every=30))  # fmt: skip
    features = lambda number, index: sets[number].features[torch.from_numpy(index)]  # noqa: E731
    assert train_patches(task, features, torch.nn.Identity(), sets, train, test, 0) < -40
    head = solve(sets, train)
    assert error_db(lambda number, index: head(features(number, index)), sets, test) < -60
