"""Metrics against references written out by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.downstream.metrics import score


def f1_by_hand(chosen: list[int], targets: list[int]) -> float:
    total = 0.0
    for label in sorted(set(targets)):
        hits = sum(1 for one, truth in zip(chosen, targets, strict=True) if one == truth == label)
        precision = hits / chosen.count(label) if label in chosen else 0.0
        recall = hits / targets.count(label)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        total += targets.count(label) * f1
    return total / len(targets)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40), st.integers(0, 1000))
def test_scores_of_classes(pairs: list[tuple[int, int]], seed: int) -> None:
    targets = [truth for _, truth in pairs]
    outputs = np.random.default_rng(seed).permuted(np.tile(np.arange(5.0), (len(pairs), 1)), axis=1)
    chosen = [int(np.argmax(row)) for row in outputs]
    values = np.asarray(targets)
    assert np.isclose(score("weighted_f1", outputs, values), f1_by_hand(chosen, targets))
    hits = [truth == one for one, truth in zip(chosen, targets, strict=True)]
    assert np.isclose(score("accuracy", outputs, values), np.mean(hits))
    assert score("top_1", outputs, values) == score("accuracy", outputs, values)
    near = [sum(other > row[truth] for other in row) < 3 for row, truth in zip(outputs, targets, strict=True)]
    assert np.isclose(score("top_3", outputs, values), np.mean(near))


def test_scores_of_positions() -> None:
    outputs, targets = np.asarray([[3.0, 4.0], [0.0, 1.0]]), np.asarray([[0.0, 0.0], [0.0, -1.0]])
    assert score("euclidean_m", outputs, targets) == (5 + 2) / 2
    assert score("mae_m", outputs, targets) == (3 + 4 + 0 + 2) / 4
