"""Zero-shot errors of runs in tables, beside predictions without training and the published methods."""

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.evaluation.score import AVERAGE, MODEL, NOISY, PREDICTOR_NAMES, averages, decibels
from orchestrator.report.heat import HeatTable
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord

PUBLISHED_SETS = tuple(f"D{number}" for number in range(1, 13))


def zeroshot_tables(records: Sequence[RunRecord]) -> list[HeatTable]:
    """A table a task, sets by runs, predictions without training and, on the published sets, published methods.

    Of full-shot runs there is none: they know the sets.
    """
    scored = [record for record in records if record.scores and not record.is_fullshot]
    tasks = dict.fromkeys(score.task for record in scored for score in record.scores)
    return [_task_table(task, scored) for task in tasks]


def fullshot_tables(records: Sequence[RunRecord]) -> list[HeatTable]:
    """A table a task: the sets that runs were trained on, each alone, by runs. No average: each run has its set."""
    scored = [record for record in records if record.scores and record.is_fullshot]
    tasks = dict.fromkeys(score.task for record in scored for score in record.scores)
    return [_fullshot_table(task, scored) for task in tasks]


def _fullshot_table(task: str, scored: Sequence[RunRecord]) -> HeatTable:
    names = tuple(dict.fromkeys(score.set_name for record in scored for score in record.scores if score.task == task))
    columns: dict[str, dict[str, float]] = {record.name: _column(record, task, MODEL) for record in scored}
    columns = {name: column for name, column in columns.items() if column}
    ours = len(columns)
    for predictor, label in PREDICTOR_NAMES.items():
        found = [_column(record, task, predictor) for record in scored]
        if predictor not in (MODEL, "zero") and any(found):
            columns[label] = {name: error for column in found for name, error in column.items()}
    values = tuple(tuple(column.get(name) for column in columns.values()) for name in names)
    return HeatTable(task, names, tuple(columns), ours, values)


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
    """Whether all scored sets are the published zero-shot sets at their full scale."""
    scored = [record for record in records if record.scores and not record.is_fullshot]
    names = {score.set_name for record in scored for score in record.scores}
    return bool(names) and names <= set(PUBLISHED_SETS) and all(record.on_published_sets for record in scored)


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
