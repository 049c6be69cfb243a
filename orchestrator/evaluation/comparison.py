"""Several models in one zero-shot table."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.evaluation.score import AVERAGE, CLEAN, MODEL, NOISY, Score, averages, decibels
from orchestrator.evaluation.shot import TITLES, marked

if TYPE_CHECKING:
    from rich.table import Table


def comparison_rows(
    scores: Mapping[str, Sequence[Score]], fullshot: Collection[str] = ()
) -> list[tuple[str, str, list[tuple[float, float] | None]]]:
    """(task, set or ``average``, cells) in the order of tasks and sets; a cell a model, in the order of the models.

    A cell is (against the noisy target, against the clean channel) in dB, None where the model has no such score.
    fullshot: models that were trained on the set that they are scored on; they have no average.
    """
    tasks = dict.fromkeys(score.task for found in scores.values() for score in found)
    values = {
        (model, score.task, score.set_name, score.target): score.decibels
        for model, found in scores.items()
        for score in found
        if score.predictor == MODEL
    }
    for model, found in scores.items():
        for (task, predictor, target), nmse in averages(found).items():
            if predictor == MODEL and model not in fullshot:
                values[model, task, AVERAGE, target] = decibels(nmse)
    sets = [*dict.fromkeys(score.set_name for found in scores.values() for score in found), AVERAGE]

    def cell(model: str, task: str, name: str) -> tuple[float, float] | None:
        noisy, clean = (values.get((model, task, name, target)) for target in (NOISY, CLEAN))
        return None if noisy is None or clean is None else (noisy, clean)

    rows = [(task, name, [cell(model, task, name) for model in scores]) for task in tasks for name in sets]
    return [row for row in rows if any(part is not None for part in row[2])]


def comparison_table(scores: Mapping[str, Sequence[Score]], fullshot: Collection[str] = ()) -> "Table":
    """A rich table: rows by task and set, a column a model. fullshot: as of :func:`comparison_rows`."""
    from rich.table import Table

    caption = "NMSE in dB against the noisy target, in brackets against the clean channel"
    kinds = [TITLES[shot] for shot in TITLES if any((model in fullshot) == (shot == "full") for model in scores)]
    table = Table(title=f"{' and '.join(kinds)} results", caption=caption)
    table.add_column("task")
    table.add_column("set")
    for model in scores:
        table.add_column(marked(model, "full" if model in fullshot else "zero"), justify="right", no_wrap=True)
    for task, name, cells in comparison_rows(scores, fullshot):
        texts = ["-" if cell is None else f"{cell[0]:.2f} ({cell[1]:.2f})" for cell in cells]
        is_average = name == AVERAGE
        table.add_row(task, name, *texts, style="bold" if is_average else None, end_section=is_average)
    return table
