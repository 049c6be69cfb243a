"""The table of scores in a run's folder, zero-shot or full-shot: CSV, JSON and a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from channels.files import write_atomically, write_json
from orchestrator.evaluation.score import MODEL, NOISY, PREDICTOR_NAMES, Score
from orchestrator.evaluation.shot import STEMS, TITLES
from orchestrator.evaluation.table import to_csv, to_document
from orchestrator.report.figure import legend_above, new_figure, to_png
from orchestrator.spec.data import Shot

COLOURS = {
    MODEL: "#0072B2", "zero": "#BBBBBB", "repeat_last": "#E69F00", "linear": "#009E73", "prony": "#CC79A7",
    "pad": "#D55E00", "lmmse": "#56B4E9",
}  # fmt: skip


def write_results(scores: Sequence[Score], folder: Path, shot: Shot = "zero") -> list[Path]:
    """``zeroshot.csv``, ``.json`` and ``.png`` (or ``fullshot``) in a folder; their paths, none without scores."""
    if not scores:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    table, document, figure = (folder / f"{STEMS[shot]}.{ending}" for ending in ("csv", "json", "png"))
    write_atomically(table, to_csv(scores))
    write_json(document, to_document(scores))
    write_atomically(figure, to_png(draw_scores(scores, TITLES[shot]), 130))
    return [table, document, figure]


def read_results(folder: Path, shot: Shot = "zero") -> list[Score]:
    """Scores written by :func:`write_results`; none where none were."""
    path = folder / f"{STEMS[shot]}.json"
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    return [Score(**{key: row[key] for key in Score.__slots__ if key in row}) for row in document["scores"]]


def draw_scores(scores: Sequence[Score], title: str) -> Any:
    """Grouped bars: a panel a task, a group a set, a bar a predictor (noisy target). title: before a task's name."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    names = list(dict.fromkeys(score.set_name for score in scores))
    predictors = [name for name in PREDICTOR_NAMES if any(score.predictor == name for score in scores)]
    values = {
        (score.task, score.set_name, score.predictor): score.decibels for score in scores if score.target == NOISY
    }
    size = (max(1.6 + 0.75 * len(names), 4.5), 2.6 * len(tasks))
    figure, panels = new_figure(len(tasks), 1, size, squeeze=False)
    width = 0.8 / len(predictors)
    for panel, task in zip(panels[:, 0], tasks, strict=True):
        for number, predictor in enumerate(predictors):
            centres = [index + (number - (len(predictors) - 1) / 2) * width for index in range(len(names))]
            heights = [values.get((task, name, predictor), 0.0) for name in names]
            panel.bar(centres, heights, width, color=COLOURS[predictor], label=PREDICTOR_NAMES[predictor])
        panel.axhline(0.0, color="black", linewidth=0.8)
        panel.set_xticks(range(len(names)), names)
        panel.set_ylabel("NMSE (dB)")
        panel.set_title(f"{title} {task}", loc="left", fontsize=10)
    legend_above(figure, panels[0, 0], len(predictors))
    return figure
