"""Tables of scores: CSV, Markdown and a page, with what encoders cost and what was published beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.downstream.results.scores import Cost, Mean
from orchestrator.downstream.task import Task
from orchestrator.report.markup import document, html_table, text
from orchestrator.report.markup import section as page_section
from orchestrator.report.published import published
from orchestrator.report.rows import to_csv

Table = tuple[str, tuple[str, ...], list[list[str]]]
"""Title, columns, rows."""
TITLE = "Downstream tasks"
DIGITS = {"nmse_db": 2, "mae_m": 2, "euclidean_m": 2}
"""Others have three."""


def csv_of(means: Sequence[Mean]) -> str:
    """A line a metric, share, encoder and patch side."""
    return to_csv([asdict(mean) for mean in means])


def tables_of(tasks: Sequence[Task], means: Sequence[Mean], costs: Sequence[Cost]) -> list[Table]:
    """A table a task, one of the other metrics with all labels, one of costs, and the published ones."""
    shares = sorted({mean.share for mean in means})
    found: list[Table] = [_task_table(task, means, shares) for task in tasks]
    found += [_other_metrics(tasks, means, shares[-1]), _cost_table(costs)]
    return [table for table in (*found, _published_scores(), _published_costs()) if table[2]]


def markdown_of(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """All tables, notes below."""
    lines = [f"# {TITLE}", ""]
    for title, columns, rows in tables:
        lines += [f"## {title}", "", _line(columns), _line(["---"] * len(columns)), *map(_line, rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def page_of(tables: Sequence[Table], notes: Sequence[str], figures: Sequence[str]) -> str:
    """A page that needs no network. figures: SVG elements."""
    drawn = "".join(f"<figure>{figure}</figure>" for figure in figures)
    sections = [page_section(title, html_table(columns, rows, (0,))) for title, columns, rows in tables]
    remarks = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    return document(TITLE, [f"<h1>{TITLE}</h1>", drawn, *sections, remarks])


def label_of(encoder: str, patch: int, unfreeze: int) -> str:
    """How an encoder is called in tables: what was trained beside the head is said."""
    tuned = f", last {unfreeze} trained" if unfreeze else ""
    return f"{encoder} {patch}x{patch}{tuned}"


def _task_table(task: Task, means: Sequence[Mean], shares: Sequence[int]) -> Table:
    metric = task.metrics[0]
    chosen = [mean for mean in means if (mean.task, mean.metric) == (task.name, metric)]
    cells: dict[str, dict[int, str]] = {}
    for mean in chosen:
        cells.setdefault(label_of(mean.encoder, mean.patch, mean.unfreeze), {})[mean.share] = _cell(mean)
    rows = [[label, *(found.get(share, "") for share in shares)] for label, found in cells.items()]
    return f"{task.name}: {metric}", ("encoder", *(f"{share} %" for share in shares)), rows


def _other_metrics(tasks: Sequence[Task], means: Sequence[Mean], share: int) -> Table:
    columns = [(task.name, metric) for task in tasks for metric in task.metrics[1:]]
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for mean in (mean for mean in means if mean.share == share):
        cells.setdefault(label_of(mean.encoder, mean.patch, mean.unfreeze), {})[mean.task, mean.metric] = _cell(mean)
    rows = [[label, *(found.get(column, "") for column in columns)] for label, found in cells.items() if columns]
    return f"other metrics with {share} % of the labels", ("encoder", *map(" ".join, columns)), rows


def _cost_table(costs: Sequence[Cost]) -> Table:
    columns = ("encoder", "tokens", "parameters", "channels", "ms", "MB held", "device")
    rows = [
        [label_of(cost.encoder, cost.patch, 0), f"{cost.tokens:,}", f"{cost.parameters:,}", str(cost.batch),
         f"{cost.ms:.2f} ± {cost.ms_deviation:.2f}", f"{cost.memory_mb:.2f}", cost.device]
        for cost in costs
    ]  # fmt: skip
    return "cost of encoding", columns, rows


def _published_scores() -> Table:
    figures: Mapping[str, Any] = published("wimamba")["scores"]
    columns = [(task, metric) for task, metric in figures["metrics"].items()]
    rows = [[name, *(f"{found[task]:g}" for task, _ in columns)] for name, found in figures["models"].items()]
    title = "published: other data, random splits, all labels, last layers trained but for los"
    return title, ("model", *map(" ".join, columns)), rows


def _published_costs() -> Table:
    figures = published("wimamba")["table1"]
    rows = [
        [f"{name} {patch}x{patch}", f"{figures[name]['ms'][at]:g} ± {figures[name]['ms_deviation'][at]:g}",
         f"{figures[name]['mb'][at]:g}"]
        for name in ("lwm", "wimamba")
        for at, patch in enumerate(figures["patches"])
    ]  # fmt: skip
    return "published: Table I, 4 channels of 240 x 240, RTX 3060, weights included", ("model", "ms", "MB"), rows


def _cell(mean: Mean) -> str:
    digits = DIGITS.get(mean.metric, 3)
    spread = "" if mean.deviation is None else f" ± {mean.deviation:.{digits}f}"
    return f"{mean.value:.{digits}f}{spread}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
