"""The table of Fig. 4: a row a method, number of buckets and weighting of the loss, as a mean over the seeds."""

import statistics
from collections.abc import Mapping, Sequence

from jobs.studies.spec import PRESET, Child, Study
from jobs.studies.tables import TASKS, StudyTable, minutes, relative, scale_note
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord
from orchestrator.spec.batching import BatchingSection


def fig4(study: Study, records: Mapping[str, RunRecord]) -> StudyTable:
    """Buckets by method: zero-shot error, padding, and time relative to one bucket.

    records: finished runs by name.
    """
    figures = published(PRESET)["fig4"]
    theirs = figures["high_heterogeneity"]
    rows = []
    for children in _by_row(study):
        batching, weighting = children[0].job.batching, children[0].job.train.loss_weighting
        runs = [records.get(child.job.name) for child in children]
        is_published = not batching.packed and batching.method == "equal" and weighting == "token"
        known = is_published and batching.buckets in figures["buckets"]
        column = figures["buckets"].index(batching.buckets) if known else None
        errors = [None if run is None else run.zeroshot for run in runs]
        rows.append((
            _method(batching), _buckets(batching), weighting, _mean(errors), *_deviation(errors),
            None if column is None else theirs["nmse_db"][column],
            *(_mean([None if run is None else run.task_averages.get(task) for run in runs]) for task in TASKS),
            _mean([None if run is None or run.padding is None else 100 * run.padding for run in runs]),
            _mean([_relative_minutes(study, records, child) for child in children]),
            None if column is None else theirs["minutes"][column] / theirs["minutes"][0],
            _mean([minutes(run) for run in runs]),
        ))  # fmt: skip
    columns = ("method", "buckets", "loss by", "NMSE dB", *(["± dB"] if len(_seeds(study)) > 1 else []),
               "published NMSE dB", *TASKS, "padding %", "relative time", "published relative time",
               "min/epoch")  # fmt: skip
    return StudyTable(
        title="Fig. 4: number of buckets",
        columns=columns,
        rows=tuple(rows),
        notes=(
            "NMSE: linear mean over tasks and zero-shot sets. Relative time: over that of one bucket.",
            "Published: sets of high heterogeneity, which the paper does not name; buckets of equal size.",
            "Loss by token, as published: long samples weigh more in a mixed batch. By sample: all weigh the same.",
            "packed: samples laid end to end, inside four optimal buckets or across all sets (one bucket).",
            *_note_of_seeds(study),
            scale_note(study),
        ),
        digits={"min/epoch": 3},
    )


def _by_row(study: Study) -> list[list[Child]]:
    """The runs of every row, one a seed."""
    rows: dict[tuple[str, str], list[Child]] = {}
    for child in study.children:
        rows.setdefault((child.method, child.job.train.loss_weighting), []).append(child)
    return list(rows.values())


def _relative_minutes(study: Study, records: Mapping[str, RunRecord], child: Child) -> float | None:
    """Of an epoch, over those of one bucket with loss by token and the same seed."""
    base = (other for other in study.children if (other.method, other.job.seed) == ("equal_1", child.job.seed))
    return relative(minutes(records.get(child.job.name)), minutes(records.get(next(base).job.name)))


def _seeds(study: Study) -> list[int]:
    return list(dict.fromkeys(child.job.seed for child in study.children))


def _note_of_seeds(study: Study) -> list[str]:
    seeds = _seeds(study)
    if len(seeds) == 1:
        return []
    return [f"Means over the seeds {', '.join(map(str, seeds))}, of values in dB; ±: standard deviation of one run."]


def _mean(values: Sequence[float | None]) -> float | None:
    return statistics.mean(known) if (known := _whole(values)) else None


def _deviation(values: Sequence[float | None]) -> list[float | None]:
    """A cell where there are several seeds."""
    return [] if len(values) == 1 else [statistics.stdev(known) if (known := _whole(values)) else None]


def _whole(values: Sequence[float | None]) -> list[float] | None:
    """The values of all runs; None where one has none."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _method(batching: BatchingSection) -> str:
    return "packed" if batching.packed else batching.method


def _buckets(batching: BatchingSection) -> int:
    return 1 if batching.packed and batching.pack == "global" else batching.buckets
