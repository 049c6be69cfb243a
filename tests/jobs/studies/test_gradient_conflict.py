"""Gradients of sets compared: chosen pairs, counts, the same result twice."""

from pathlib import Path

import pytest

from jobs.studies.gradient_conflict import ConflictSetting, PairConflict, measure_conflict, shares
from models.registry import make_spec
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.data import DataSection
from samplers.catalogue import Catalogue

SETTING = ConflictSetting(epochs=1, batches=3, lr=1e-3, seed=5)
PAIRS = {"different_scale": ("R1", "R2"), "similar_scale": ("R3", "R1")}


@pytest.fixture(scope="module")
def opened(small_store: Path) -> tuple[Catalogue, TrainingData]:
    spec = make_spec("hetercsi", {"size": "tiny", "position": "grid"})
    return open_training_data(DataSection(store=small_store, samples=16), spec, seed=5)


def test_pairs_are_counted_the_same_twice(opened: tuple[Catalogue, TrainingData]) -> None:
    catalogue, data = opened
    told: list[int] = []
    first = measure_conflict(data, catalogue, PAIRS, SETTING, told.append)
    again = measure_conflict(data, catalogue, PAIRS, SETTING, told.append)
    assert first == again and told == [1, 1]
    assert [(pair.relation, pair.first, pair.second) for pair in first] == [
        ("different_scale", "R1", "R2"),
        ("similar_scale", "R3", "R1"),
    ]
    assert all(pair.pairs == 9 and 0 <= pair.negative <= 9 for pair in first)


def test_shares_are_over_all_pairs() -> None:
    found = [PairConflict(1, "A", "B", "same_scale", 100, 0), PairConflict(1, "A", "C", "different_scale", 100, 80),
             PairConflict(2, "A", "C", "different_scale", 300, 100)]  # fmt: skip
    assert shares(found) == {"different_scale": 0.45, "same_scale": 0.0}
