"""A score of the zero-shot table, and what scores amount to over sets: means of linear values (HeterCSI Table II)."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MODEL = "model"
NOISY, CLEAN = "noisy", "clean"
AVERAGE = "average"
"""Stands where a set's name stands for the mean over sets."""
PREDICTOR_NAMES = {
    MODEL: "model", "zero": "zero", "repeat_last": "repeat last", "linear": "linear", "pad": "PAD", "prony": "Prony",
    "lmmse": "LMMSE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the samples of one set, of one predictor."""

    task: str
    set_name: str
    predictor: str
    """``model``, or a prediction without training."""
    target: str
    """``noisy`` or ``clean``."""
    nmse: float
    """Linear."""
    samples: int
    sgcs: float | None = None
    """Squared generalised cosine similarity of the antenna vectors that are wholly predicted; None without any."""
    se_share: float | None = None
    """Spectral efficiency along them as a share of that along the true ones."""

    @property
    def decibels(self) -> float:
        """10 log10 of the mean."""
        return decibels(self.nmse)


def decibels(ratio: float) -> float:
    """10 log10; minus infinity for an exact prediction, NaN for one that is not finite."""
    if math.isnan(ratio):
        return math.nan
    return 10.0 * math.log10(ratio) if ratio > 0 else -math.inf


def averages(scores: Sequence[Score]) -> Mapping[tuple[str, str, str], float]:
    """Mean over sets of the linear NMSE, by (task, predictor, target)."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for score in scores:
        groups[score.task, score.predictor, score.target].append(score.nmse)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def direction_averages(scores: Sequence[Score]) -> Mapping[tuple[str, str, str], tuple[float, float]]:
    """Mean (similarity, share of efficiency) over the sets that have them, by (task, predictor, target)."""
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for score in scores:
        if score.sgcs is not None and score.se_share is not None:
            groups[score.task, score.predictor, score.target].append((score.sgcs, score.se_share))
    means = {key: np.mean(values, axis=0).tolist() for key, values in groups.items()}
    return {key: (sgcs, se_share) for key, (sgcs, se_share) in means.items()}


def overall(scores: Sequence[Score]) -> float:
    """One number for a model: mean over tasks of the mean linear NMSE over sets, against the noisy target."""
    values = [
        value for (_, predictor, target), value in averages(scores).items() if (predictor, target) == (MODEL, NOISY)
    ]
    return sum(values) / len(values)
