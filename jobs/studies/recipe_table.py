"""The table of a recipe: a row a change and seed, and beside several seeds a row of their mean and deviation."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.studies.recipe import BASE
from jobs.studies.spec import Child, Study
from jobs.studies.tables import TASKS, Cell, StudyTable, mean_error, to_rows
from orchestrator.evaluation.score import AVERAGE, MODEL, Score
from orchestrator.report.record import RunRecord

LAST = 0.05
"""Share of the steps over which the final loss is averaged."""
ERRORS = (*TASKS, AVERAGE)
COLUMNS = ("change", "seed", "steps", "minutes", "valid tokens/s", "final loss", *ERRORS, "over base, dB")
DIGITS = {"steps": 0, "minutes": 1, "valid tokens/s": 0, "final loss": 4}
MEAN = "mean"
"""Stands where the seed stands in the row over several seeds."""


def recipe_table(
    study: Study, records: Mapping[str, RunRecord], scores: Mapping[str, Sequence[Score]]
) -> StudyTable:  # fmt: skip
    """Rows by change, then seed. records, scores: of the finished runs by name."""
    runs: dict[str, dict[int, tuple[Cell, ...]]] = {}
    for child in study.children:
        name = child.job.name
        row = _run_cells(study, records.get(name), scores.get(name, ()))
        runs.setdefault(child.method, {})[child.job.seed] = row
    rows: list[tuple[Cell, ...]] = []
    for change, by_seed in runs.items():
        whole = [
            (*row, None if change == BASE else _over(row[-1], runs[BASE][seed][-1])) for seed, row in by_seed.items()
        ]
        rows += [(change, seed, *row) for seed, row in zip(by_seed, whole, strict=True)]
        if len(whole) > 1:
            cells = zip(COLUMNS[2:], zip(*whole, strict=True), strict=True)
            rows.append((change, MEAN, *(_spread(values, DIGITS.get(name, 2)) for name, values in cells)))
    return StudyTable(
        title="Recipe: one change at a time",
        columns=COLUMNS,
        rows=tuple(rows),
        notes=_notes(study),
        digits=DIGITS,
    )


def recipe_scores(study: Study, scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Every score of the models, a row each; for CSV."""
    return [
        {
            "change": child.method, "seed": child.job.seed, "task": score.task, "set": score.set_name,
            "target": score.target, "samples": score.samples, "nmse_db": score.decibels,
        }
        for child in study.children
        for score in scores[child.job.name]
        if score.predictor == MODEL
    ]  # fmt: skip


def differences_by_task(table: StudyTable) -> dict[str, dict[str, list[float]]]:
    """dB over the base with the same seed, one a seed, by task (their average last) and change; without the base."""
    runs = [row for row in to_rows(table) if row["seed"] != MEAN]
    base = {row["seed"]: row for row in runs if row["change"] == BASE}
    found: dict[str, dict[str, list[float]]] = {}
    for task in ERRORS:
        of_task = found.setdefault(task, {})
        for row in runs:
            over = _over(row[task], base[row["seed"]][task])
            if row["change"] != BASE and over is not None:
                of_task.setdefault(str(row["change"]), []).append(over)
    return found


def _run_cells(study: Study, record: RunRecord | None, scores: Sequence[Score]) -> tuple[Cell, ...]:
    """Of one run, from its steps to the average of its errors."""
    if record is None or not record.done:
        measured: tuple[Cell, ...] = (None,) * 4
    else:
        loss, wall_s = record.steps.loss, record.steps.wall_s
        last = loss[-max(1, round(LAST * len(loss))) :]
        measured = (record.done, float(wall_s[-1]) / 60, record.throughput, float(last.mean()))
    return (*measured, *(mean_error(scores, task, study.scale.zeroshot_sets) for task in ERRORS))


def _over(value: Cell, base: Cell) -> float | None:
    return value - base if isinstance(value, float) and isinstance(base, float) else None


def _spread(values: Sequence[Cell], digits: int) -> str | None:
    """Mean and standard deviation of a sample; None where a run has no value."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    if len(known) < len(values):
        return None
    return f"{statistics.mean(known):.{digits}f} ± {statistics.stdev(known):.{digits}f}"


def _notes(study: Study) -> tuple[str, ...]:
    base = next(child for child in study.children if child.method == BASE)
    samples, sets = base.job.data.samples or 0, ", ".join(study.scale.zeroshot_sets)
    channels = "made here" if study.imported is None else f"imported from {study.imported.source.name}"
    return (
        f"Equal cost: every run trains one epoch of {base.sets} sets x {samples} samples (3GPP TR 38.901 channels made "
        f"here), from warm-up to the end of the schedule, on {base.job.scale.text} ranks.{_other_samples(study, base)}",
        f"NMSE: dB of the linear mean over {sets} ({channels}), against the noisy target; average: over the tasks, "
        "linear. Over base: that average less the base's with the same seed; below 0 is better.",
        "Minutes are those of training, and depend on what else the machine does. Final loss: mean over the last 5 % "
        "of the steps; with other samples, weights or augmentations it is another quantity.",
        *(["Mean: over the seeds, of values in dB, ± the standard deviation of one run."] if _several(study) else []),
        *study.left_out,
    )


def _other_samples(study: Study, base: Child) -> str:
    """The changes that are trained on as many samples of other sets, or on more or fewer ones, in sentences."""
    same: dict[str, str] = {}
    other: dict[str, str] = {}
    own = base.job.data.samples or 0
    for child in study.children:
        samples = child.job.data.samples or 0
        if samples != own:
            part = same if child.sets * samples == base.sets * own else other
            part[child.method] = f"{child.method} ({child.sets} x {samples})"
    said = f" As many in all: {', '.join(same.values())}." if same else ""
    return said + (f" More or fewer, which take about as long: {', '.join(other.values())}." if other else "")


def _several(study: Study) -> bool:
    return len({child.job.seed for child in study.children}) > 1
