"""Scores of predictions, each with the direction in which it is better."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.downstream.task import Metric


def score(metric: Metric, outputs: NDArray[np.float64], targets: NDArray[Any]) -> float:
    """A metric of a head's outputs [n, classes or numbers] and targets int64 [n] or float [n, numbers]."""
    return SCORES[metric](outputs, targets)


def weighted_f1(outputs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """F1 of each class that is tested, weighted by its test samples; 0 for a class that is never right."""
    chosen = outputs.argmax(axis=1)
    total = 0.0
    for label, count in zip(*np.unique(targets, return_counts=True), strict=True):
        right = int(((chosen == label) & (targets == label)).sum())
        total += count * 2 * right / (int((chosen == label).sum()) + count)
    return total / len(targets)


def top(count: int, outputs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Share of samples whose class is among the ``count`` with the largest outputs; of equal ones the first count."""
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :count]
    return float((best == targets[:, None]).any(axis=1).mean())


def mean_absolute(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Mean over samples and coordinates of the absolute error."""
    return float(np.abs(outputs - targets).mean())


def mean_euclidean(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Mean over samples of the distance."""
    return float(np.linalg.norm(outputs - targets, axis=1).mean())


SCORES: Mapping[str, Callable[[NDArray[np.float64], NDArray[Any]], float]] = {
    "accuracy": lambda outputs, targets: top(1, outputs, targets),
    "weighted_f1": weighted_f1,
    "top_1": lambda outputs, targets: top(1, outputs, targets),
    "top_3": lambda outputs, targets: top(3, outputs, targets),
    "mae_m": mean_absolute,
    "euclidean_m": mean_euclidean,
}
"""All but ``nmse_db``, which is taken where patches are predicted."""
