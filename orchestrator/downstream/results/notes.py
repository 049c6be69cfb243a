"""What a table of scores must be read with."""

from collections.abc import Sequence

from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.results.scores import Score
from orchestrator.downstream.work import Bench


def notes_of(bench: Bench, encoders: Sequence[Encoder], scores: Sequence[Score]) -> tuple[str, ...]:
    """A sentence each: samples and split, seeds, what is trained, where labels come from."""
    spec = bench.spec
    drawn = "split, " if spec.split.by in ("region", "random") else ""
    lines = [
        f"Samples: {', '.join(f'{one.name} ({one.count})' for one in bench.pool.sets)}.",
        f"Tested: {_split(bench)}; no position is on both sides where positions are known.",
        f"Mean and deviation of {spec.seeds} seeds; each draws {drawn}share of the labels and head.",
    ]
    if spec.unfreeze:
        lines.append(f"The last {spec.unfreeze} layers of every encoder were trained too: embeddings are not frozen.")
    if any(encoder.folder is None for encoder in encoders):
        lines.append("raw: the channel itself, its patches one after the other; patch by patch for tasks on patches.")
    lines += [f"{name}: {targets.source}." for name, targets in bench.targets.items()]
    for task in bench.tasks:
        most = max((score.unseen for score in scores if score.task == task.name), default=0)
        if most:
            lines.append(f"{task.name}: up to {most} test samples are of classes never trained on: wrong.")
        if task.feature == "patches" and task.given is not None:
            lines.append(
                f"{task.name}: every {task.given.subcarriers}. subcarrier of every {task.given.antennas}. antenna is "
                "given, the other entries are predicted and scored; the linear head is solved by least squares."
            )
    return tuple(lines)


def _split(bench: Bench) -> str:
    split = bench.spec.split
    if split.by == "region":
        return (
            f"whole regions of a scene ({split.regions} in each, at least {100 * split.test_share:.0f} % of its users)"
        )
    if split.by == "scenario":
        return f"whole scenarios ({', '.join(split.test)})"
    if split.by == "stored":
        return "the store's own split"
    return "users at random, as published: neighbours, nearly alike, are on both sides"
