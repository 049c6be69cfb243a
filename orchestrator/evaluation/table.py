"""The zero-shot table: on screen, as CSV, JSON and picture, and as MLflow metrics."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from channels.files import write_atomically, write_json
from orchestrator.evaluation.nmse import CLEAN, MODEL, NOISY, Score, averages, decibels, overall

PREDICTOR_NAMES = {MODEL: "model", "zero": "zero", "repeat_last": "repeat last", "linear": "linear"}


def write_results(scores: Sequence[Score], folder: Path) -> list[Path]:
    """``zeroshot.csv``, ``zeroshot.json`` and ``zeroshot.png`` in a folder; their paths, none without scores."""
    if not scores:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    table, document, picture = folder / "zeroshot.csv", folder / "zeroshot.json", folder / "zeroshot.png"
    write_atomically(table, to_csv(scores))
    write_json(document, to_document(scores))
    draw_scores(scores, picture)
    return [table, document, picture]


def read_results(folder: Path) -> list[Score]:
    """Scores written by :func:`write_results`."""
    document = json.loads((folder / "zeroshot.json").read_text())
    return [Score(**{key: row[key] for key in Score.__slots__}) for row in document["scores"]]


def to_csv(scores: Sequence[Score]) -> str:
    """One line a score, NMSE linear and in dB."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["task", "set", "predictor", "target", "samples", "nmse", "nmse_db"])
    for score in scores:
        row = (score.task, score.set_name, score.predictor, score.target, score.samples)
        writer.writerow([*row, f"{score.nmse:.6g}", f"{score.decibels:.3f}"])
    return text.getvalue()


def to_document(scores: Sequence[Score]) -> dict[str, Any]:
    """JSON form: every score, and the averages over sets in dB."""
    means = [
        {"task": task, "predictor": predictor, "target": target, "nmse": value, "nmse_db": decibels(value)}
        for (task, predictor, target), value in averages(scores).items()
    ]
    return {"averages": means, "scores": [asdict(score) | {"nmse_db": score.decibels} for score in scores]}


def to_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """MLflow names: ``eval/nmse_db/<task>/<set>`` and ``.../avg`` (noisy target), ``eval/clean_nmse_db/...``.

    ``eval/nmse_db/avg`` is one number for the model, to compare runs by.
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
    return metrics | {"eval/nmse_db/avg": decibels(overall(scores))}


def to_tables(scores: Sequence[Score], title: str) -> list[Any]:
    """Two rich tables: the model on every set, and the averages of all predictors; NMSE in dB."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    return [_set_table(scores, tasks, title), _average_table(scores, tasks)]


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
        if (tasks[0], predictor, NOISY) in means:
            pairs = [
                (decibels(means[task, predictor, NOISY]), decibels(means[task, predictor, CLEAN])) for task in tasks
            ]
            table.add_row(label, *(_pair(*pair) for pair in pairs), style="bold" if predictor == MODEL else None)
    return table


def _pair(noisy: float | None, clean: float | None) -> str:
    if noisy is None or clean is None:
        return "-"
    return f"{noisy:.2f} ({clean:.2f})"


def draw_scores(scores: Sequence[Score], path: Path) -> None:
    """Grouped bars: a panel a task, a group a set, a bar a predictor (noisy target)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(score.task for score in scores))
    names = list(dict.fromkeys(score.set_name for score in scores))
    predictors = [name for name in PREDICTOR_NAMES if any(score.predictor == name for score in scores)]
    values = {
        (score.task, score.set_name, score.predictor): score.decibels for score in scores if score.target == NOISY
    }
    figure, panels = pyplot.subplots(len(tasks), 1, figsize=(1.6 + 0.75 * len(names), 2.6 * len(tasks)), squeeze=False)
    colours = ("#0072B2", "#BBBBBB", "#E69F00", "#009E73")
    width = 0.8 / len(predictors)
    for panel, task in zip(panels[:, 0], tasks, strict=True):
        for number, (predictor, colour) in enumerate(zip(predictors, colours, strict=False)):
            places = [index + (number - (len(predictors) - 1) / 2) * width for index in range(len(names))]
            heights = [values.get((task, name, predictor), 0.0) for name in names]
            panel.bar(places, heights, width, color=colour, label=PREDICTOR_NAMES[predictor])
        panel.axhline(0.0, color="black", linewidth=0.8)
        panel.set_xticks(range(len(names)), names)
        panel.set_ylabel("NMSE (dB)")
        panel.set_title(f"zero-shot {task}", loc="left", fontsize=10)
    panels[0, 0].legend(ncols=len(predictors), fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.tight_layout()
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    pyplot.close(figure)
    temporary.replace(path)
