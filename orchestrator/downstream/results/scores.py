"""Scores of heads, on disk and averaged over seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from channels.files import parse_json, write_json


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one head.

    share: percent of the labels. unfreeze: layers of the encoder that were trained too. trained, tested: samples.
    unseen: test samples of a class that no training sample has.
    """

    encoder: str
    patch: int
    task: str
    metric: str
    share: int
    seed: int
    value: float
    unfreeze: int
    trained: int
    tested: int
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric over seeds. deviation: of a sample of seeds; None for one seed."""

    encoder: str
    patch: int
    task: str
    metric: str
    share: int
    unfreeze: int
    value: float
    deviation: float | None
    seeds: int
    trained: int
    tested: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What an encoder costs at a patch side. tokens: of a channel, class token included. weights_mb: in float32.

    ms, memory_mb: of ``batch`` channels; memory is the most that tensors held beside the weights.
    """

    encoder: str
    patch: int
    tokens: int
    parameters: int
    batch: int
    ms: float
    ms_deviation: float
    memory_mb: float
    device: str


def averaged(scores: Iterable[Score]) -> list[Mean]:
    """Means over seeds, in the order of the scores; samples are those of the first seed."""
    groups: dict[tuple[Any, ...], list[Score]] = defaultdict(list)
    for score in scores:
        key = (score.encoder, score.patch, score.task, score.metric, score.share, score.unfreeze)
        groups[key].append(score)
    return [_mean(found) for found in groups.values()]


def _mean(found: Sequence[Score]) -> Mean:
    first, values = found[0], [score.value for score in found]
    mean = math.fsum(values) / len(values)
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Mean(
        encoder=first.encoder, patch=first.patch, task=first.task, metric=first.metric, share=first.share,
        unfreeze=first.unfreeze, value=mean, deviation=spread, seeds=len(values), trained=first.trained,
        tested=first.tested, unseen=first.unseen,
    )  # fmt: skip


def write_part(path: Path, key: str, scores: Sequence[Score]) -> None:
    """Keep the scores of an encoder on a task. key: of everything that they depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": key, "scores": [asdict(score) for score in scores]})


def read_part(path: Path, key: str) -> list[Score] | None:
    """What was kept under this key; None where nothing was, or it is damaged."""
    kept = read_kept(path, key)
    try:
        return None if kept is None else [Score(**row) for row in kept["scores"]]
    except (KeyError, TypeError):
        return None


def read_kept(path: Path, key: str) -> Mapping[str, Any] | None:
    """A JSON mapping that was kept under a key."""
    try:
        kept = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and kept.get("key") == key else None
