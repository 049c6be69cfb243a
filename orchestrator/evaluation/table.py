"""The zero-shot table: on a terminal, as CSV and JSON, and as MLflow metrics."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.evaluation.direction_table import direction_table
from orchestrator.evaluation.score import (
    CLEAN,
    MODEL,
    NOISY,
    PREDICTOR_NAMES,
    Score,
    averages,
    decibels,
    direction_averages,
    overall,
)


def to_csv(scores: Sequence[Score]) -> str:
    """One line a score, NMSE linear and in dB; similarity and share of efficiency are empty where there are none."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["task", "set", "predictor", "target", "samples", "nmse", "nmse_db", "sgcs", "se_share"])
    for score in scores:
        row = (score.task, score.set_name, score.predictor, score.target, score.samples)
        directions = ["" if value is None else f"{value:.6g}" for value in (score.sgcs, score.se_share)]
        writer.writerow([*row, f"{score.nmse:.6g}", f"{score.decibels:.3f}", *directions])
    return text.getvalue()


def to_document(scores: Sequence[Score]) -> dict[str, Any]:
    """JSON form: every score, and the averages over sets."""
    directions = direction_averages(scores)
    means = [
        {"task": task, "predictor": predictor, "target": target, "nmse": value, "nmse_db": decibels(value)}
        | dict(zip(("sgcs", "se_share"), directions.get((task, predictor, target), (None, None)), strict=True))
        for (task, predictor, target), value in averages(scores).items()
    ]
    return {"averages": means, "scores": [asdict(score) | {"nmse_db": score.decibels} for score in scores]}


def to_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """MLflow names: ``eval/nmse_db/<task>/<set>`` and ``.../avg`` (noisy target), ``eval/clean_nmse_db/...``.

    ``eval/nmse_db/avg`` is one number for the model, to compare runs by. In the same way ``eval/sgcs/...`` and
    ``eval/se_share/...`` (``eval/clean_sgcs/...``, ``eval/clean_se_share/...``) where directions were scored.
    """
    if not scores:
        return {}
    prefix = {NOISY: "eval/nmse_db", CLEAN: "eval/clean_nmse_db"}
    metrics = {
        f"{prefix[score.target]}/{score.task}/{score.set_name}": score.decibels
        for score in scores
        if score.predictor == MODEL
    }
    for (task, predictor, target), value in averages(scores).items():
        if predictor == MODEL:
            metrics[f"{prefix[target]}/{task}/avg"] = decibels(value)
        elif target == NOISY:
            metrics[f"eval/reference_nmse_db/{task}/{predictor}"] = decibels(value)
    return metrics | _direction_metrics(scores) | {"eval/nmse_db/avg": decibels(overall(scores))}


def _direction_metrics(scores: Sequence[Score]) -> dict[str, float]:
    by_set = {
        (score.task, score.set_name, score.target): (score.sgcs, score.se_share)
        for score in scores
        if score.predictor == MODEL and score.sgcs is not None
    }
    means = {
        (task, "avg", target): found
        for (task, predictor, target), found in direction_averages(scores).items()
        if predictor == MODEL
    }
    kind = {NOISY: "", CLEAN: "clean_"}
    return {
        f"eval/{kind[target]}{measure}/{task}/{name}": value
        for (task, name, target), found in (by_set | means).items()
        for measure, value in zip(("sgcs", "se_share"), found, strict=True)
        if value is not None
    }


def to_tables(scores: Sequence[Score], title: str) -> list[Any]:
    """Rich tables: the model on every set, the averages of all predictors, NMSE in dB; and directions if scored."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    tables = [_set_table(scores, tasks, title), _average_table(scores, tasks)]
    return [*tables, direction_table(scores)] if direction_averages(scores) else tables


def _set_table(scores: Sequence[Score], tasks: Sequence[str], title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, caption="NMSE in dB against the noisy target, in brackets against the clean channel")
    table.add_column("set")
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)
    values = {
        (score.task, score.set_name, score.target): score.decibels for score in scores if score.predictor == MODEL
    }
    names = list(dict.fromkeys(score.set_name for score in scores))
    for name in names:
        cells = [_pair(values.get((task, name, NOISY)), values.get((task, name, CLEAN))) for task in tasks]
        table.add_row(name, *cells, end_section=name == names[-1])
    means = averages(scores)
    cells = [_pair(*(decibels(means[task, MODEL, target]) for target in (NOISY, CLEAN))) for task in tasks]
    table.add_row("average", *cells, style="bold")
    return table


def _average_table(scores: Sequence[Score], tasks: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(title="average over the sets")
    table.add_column("prediction")
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)
    means = averages(scores)
    for predictor, label in PREDICTOR_NAMES.items():
        found = [[means.get((task, predictor, target)) for target in (NOISY, CLEAN)] for task in tasks]
        if any(noisy is not None for noisy, _ in found):
            pairs = [[None if value is None else decibels(value) for value in pair] for pair in found]
            table.add_row(label, *(_pair(*pair) for pair in pairs), style="bold" if predictor == MODEL else None)
    return table


def _pair(noisy: float | None, clean: float | None) -> str:
    if noisy is None or clean is None:
        return "-"
    return f"{noisy:.2f} ({clean:.2f})"
