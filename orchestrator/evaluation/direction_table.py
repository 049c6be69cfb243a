"""The directions of predicted antenna vectors on a terminal."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.evaluation.score import AVERAGE, CLEAN, MODEL, PREDICTOR_NAMES, Score, direction_averages
from orchestrator.evaluation.shot import marked

if TYPE_CHECKING:
    from rich.table import Table

TITLE = "directions of predicted antenna vectors"
CAPTION = "squared cosine similarity, and spectral efficiency along them in %, against the clean channel"


def direction_table(scores: Sequence[Score]) -> "Table":
    """A rich table: the model on every set and the averages of all predictors, by task."""
    means = {who: found for who, found in direction_averages(scores).items() if who[2] == CLEAN}
    tasks = list(dict.fromkeys(task for task, _, _ in means))
    table = _table(tasks)
    by_set = {
        (score.task, score.set_name): (score.sgcs, score.se_share)
        for score in scores
        if (score.predictor, score.target) == (MODEL, CLEAN)
    }
    names = list(dict.fromkeys(score.set_name for score in scores))
    for name in names:
        cells = [direction_text(by_set.get((task, name))) for task in tasks]
        table.add_row(name, *cells, end_section=name == names[-1])
    for predictor, label in PREDICTOR_NAMES.items():
        found = [means.get((task, predictor, CLEAN)) for task in tasks]
        if any(found):
            style = "bold" if predictor == MODEL else None
            table.add_row(f"{AVERAGE}, {label}", *map(direction_text, found), style=style)
    return table


def direction_comparison(scores: Mapping[str, Sequence[Score]], fullshot: Collection[str] = ()) -> "Table | None":
    """A rich table: the averages of several models, by task; None where there are none.

    fullshot: models that were trained on the set that they are scored on; they have no average.
    """
    means = {model: {} if model in fullshot else direction_averages(found) for model, found in scores.items()}
    if not any(means.values()):
        return None
    tasks = list(dict.fromkeys(task for found in means.values() for task, predictor, _ in found if predictor == MODEL))
    table = _table(tasks)
    for model, found in means.items():
        name = marked(model, "full" if model in fullshot else "zero")
        table.add_row(name, *(direction_text(found.get((task, MODEL, CLEAN))) for task in tasks))
    return table


def direction_text(found: tuple[float | None, float | None] | None) -> str:
    """Similarity and share, e.g. ``0.912 98.1 %``."""
    if found is None or found[0] is None or found[1] is None:
        return "-"
    return f"{found[0]:.3f} {100 * found[1]:.1f} %"


def _table(tasks: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=TITLE, caption=CAPTION)
    table.add_column("")
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)
    return table
