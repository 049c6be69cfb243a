"""Gradients of sets compared: relations of scales, counts of pairs, the same result twice."""

from pathlib import Path

import pytest

from jobs.studies.gradient_conflict import ConflictSetting, PairConflict, measure_conflict, relation_of, shares
from models.registry import make_spec
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.job import DataSection
from samplers.catalogue import Catalogue

SETTING = ConflictSetting(epochs=1, batches=3, lr=1e-3, seed=5)


@pytest.fixture(scope="module")
def opened(small_store: Path) -> tuple[Catalogue, TrainingData]:
    spec = make_spec("hetercsi", {"size": "tiny", "position": "grid"})
    return open_training_data(DataSection(store=small_store, samples=16), spec, seed=5)


def test_relations_of_scales(opened: tuple[Catalogue, TrainingData]) -> None:
    catalogue, data = opened
    # R1 8 tokens, R2 16, R3 12, R4 6 (partial patches).
    lengths = [source.length for source in catalogue]
    assert lengths == [8, 16, 12, 6]
    found = {(first, second): relation_of(data, first, second) for second in range(4) for first in range(second)}
    assert found[0, 1] == found[1, 3] == "different_scale"
    assert found[0, 2] == found[1, 2] == found[0, 3] == "similar_scale"
    assert found[2, 3] == "different_scale"
    assert relation_of(data, 0, 0) == "same_scale"


def test_pairs_are_counted_the_same_twice(opened: tuple[Catalogue, TrainingData]) -> None:
    catalogue, data = opened
    told: list[int] = []
    first = measure_conflict(data, catalogue, SETTING, told.append)
    again = measure_conflict(data, catalogue, SETTING, told.append)
    assert first == again and told == [1, 1]
    assert len(first) == 6 and all(pair.pairs == 9 and 0 <= pair.negative <= 9 for pair in first)


def test_shares_are_over_all_pairs() -> None:
    found = [PairConflict(1, "A", "B", "same_scale", 100, 0), PairConflict(1, "A", "C", "different_scale", 100, 80),
             PairConflict(2, "A", "C", "different_scale", 300, 100)]  # fmt: skip
    assert shares(found) == {"different_scale": 0.45, "same_scale": 0.0}
