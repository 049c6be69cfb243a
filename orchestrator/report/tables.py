"""Tables of a report as plain data: the runs, their steps, and the zero-shot errors beside the published ones."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.nmse import MODEL, NOISY, averages, decibels
from orchestrator.evaluation.table import PREDICTOR_NAMES
from orchestrator.report.figures import plan_name
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord

AVERAGE = "average"
PUBLISHED_SETS = tuple(f"D{number}" for number in range(1, 13))
STEP_COLUMNS = ("step", "samples", "wall_s", "loss", "lr", "padding", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class HeatTable:
    """Errors in dB. ours: how many of the first columns are runs; the others are not ours, or need no training."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    ours: int
    values: tuple[tuple[float | None, ...], ...]


def least_error(tables: Iterable[HeatTable]) -> float:
    """The smallest error of tables that stand together, dB: their darkest cell."""
    values = (value for table in tables for row in table.values for value in row if value is not None)
    return min(values, default=0.0)


def zeroshot_tables(records: Sequence[RunRecord]) -> list[HeatTable]:
    """A table a task, sets by runs, predictions without training and, on the published sets, published methods."""
    scored = [record for record in records if record.scores]
    tasks = dict.fromkeys(score.task for record in scored for score in record.scores)
    return [_task_table(task, scored) for task in tasks]


def published_averages(tasks: Iterable[str]) -> HeatTable | None:
    """Average errors of Table II of the HeterCSI paper for the tasks it has; None if it has none of them."""
    figures = published("hetercsi")["table2"]
    known = tuple(task for task in tasks if task in figures)
    if not known:
        return None
    methods = tuple(dict.fromkeys(method for task in known for method in figures[task]))
    values = tuple(
        tuple(figures[task][method]["average"] if method in figures[task] else None for task in known)
        for method in methods
    )
    return HeatTable("published averages over D1 to D12", methods, known, 0, values)


def on_published_sets(records: Sequence[RunRecord]) -> bool:
    """Whether all scored sets carry the names of the published zero-shot sets."""
    names = {score.set_name for record in records for score in record.scores}
    return bool(names) and names <= set(PUBLISHED_SETS)


def _task_table(task: str, scored: Sequence[RunRecord]) -> HeatTable:
    names = list(dict.fromkeys(score.set_name for record in scored for score in record.scores if score.task == task))
    columns: dict[str, Mapping[str, float]] = {record.name: _column(record, task, MODEL) for record in scored}
    columns = {name: column for name, column in columns.items() if column}
    ours = len(columns)
    for predictor, label in PREDICTOR_NAMES.items():
        reference = next(filter(None, (_column(record, task, predictor) for record in scored)), None)
        if predictor not in (MODEL, "zero") and reference:
            columns[label] = reference
    if on_published_sets(scored):
        for method, figures in published("hetercsi")["table2"].get(task, {}).items():
            by_set = dict(zip(PUBLISHED_SETS, figures["rows"], strict=True))
            # Over the sets that are shown; of all twelve the paper states it, rounded otherwise.
            average = figures["average"] if len(names) == len(PUBLISHED_SETS) else _average(by_set, names)
            columns[f"{method} (published)"] = by_set | {AVERAGE: average}
    rows = (*names, AVERAGE)
    values = tuple(tuple(column.get(row) for column in columns.values()) for row in rows)
    return HeatTable(task, rows, tuple(columns), ours, values)


def _column(record: RunRecord, task: str, predictor: str) -> dict[str, float]:
    """Error in dB by set and on average, of one predictor against the noisy target; empty where it has none."""
    wanted = (task, predictor, NOISY)
    chosen = [score for score in record.scores if (score.task, score.predictor, score.target) == wanted]
    if not chosen:
        return {}
    return {score.set_name: score.decibels for score in chosen} | {AVERAGE: decibels(averages(chosen)[wanted])}


def _average(by_set: Mapping[str, float], names: Sequence[str]) -> float:
    """dB of the linear mean over sets, as the paper averages."""
    return decibels(sum(10 ** (by_set[name] / 10) for name in names) / len(names))


def run_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line a run; what it has no figure for is None."""
    return [_run_row(record) for record in records]


def _run_row(record: RunRecord) -> dict[str, Any]:
    budget = record.budget
    last = record.attempts[-1] if record.attempts else None
    return {
        "run": record.name,
        "status": record.status,
        "model": " ".join([record.job.model.name, *map(str, record.job.model.options.values())]),
        "plan": plan_name(record),
        "workers": last.workers if last else None,
        "device": last.device if last else None,
        "steps": record.done,
        "total_steps": record.total_steps,
        "samples_per_epoch": record.plan["samples"],
        "loss": float(record.steps.loss[-1]) if record.done else None,
        "padding_planned": record.plan["padding"],
        "padding_measured": record.padding,
        "coverage": record.epochs[-1].get("data/coverage") if record.epochs else None,
        "tokens_per_s": record.throughput,
        "minutes_per_epoch": record.minutes_per_epoch,
        "attempts": len(record.attempts),
        "checkpoints": len(record.checkpoints),
        "compute_s": budget.compute,
        "data_wait_s": budget.data_wait,
        "checkpoint_s": budget.checkpoint,
        "evaluation_s": budget.evaluation,
        "repeated_s": budget.repeated,
        "zeroshot_nmse_db": record.zeroshot,
    }


def step_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line a logged step."""
    return [
        {"run": record.name, **{name: float(value) for name, value in zip(STEP_COLUMNS, values, strict=True)}}
        for record in records
        for values in zip(*(getattr(record.steps, name) for name in STEP_COLUMNS), strict=True)
    ]


def score_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line a zero-shot error, of runs and predictions without training, against both targets."""
    return [
        {
            "run": record.name, "task": score.task, "set": score.set_name, "predictor": score.predictor,
            "target": score.target, "samples": score.samples, "nmse": score.nmse, "nmse_db": score.decibels,
        }
        for record in records
        for score in record.scores
    ]  # fmt: skip


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; floats with six digits, None left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()
