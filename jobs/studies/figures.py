"""Figures of the studies: ours in colour, the published ones in black."""

import math
from collections.abc import Sequence
from typing import Any

from jobs.studies.recipe_table import differences_by_task
from jobs.studies.tables import Cell, StudyTable
from orchestrator.evaluation.score import AVERAGE
from orchestrator.report.figure import COLOURS, figure_style, new_figure

PUBLISHED = {"color": "black", "marker": "x", "ls": ":", "label": "published"}


def draw_study(kind: str, table: StudyTable) -> Any:
    """The figure of a study's table."""
    draw = {
        "table2": _draw_table2, "table3": _draw_table3, "fig3": _draw_fig3, "fig4": _draw_fig4, "fig1c": _draw_fig1c,
        "scales": _draw_scales, "recipe": _draw_recipe,
    }[kind]  # fmt: skip
    with figure_style():
        return draw(table)


def _draw_table3(table: StudyTable) -> Any:
    """Padding and relative time against the number of sets, a colour a strategy; crosses are published."""
    figure, (padding, time) = new_figure(1, 2, (10, 3.8))
    methods = list(dict.fromkeys(str(method) for method in table.column("batching")))
    for colour, method in zip(COLOURS, methods, strict=False):
        chosen = [row for row in table.rows if row[1] == method]
        for axis, ours, theirs in ((padding, 2, 3), (time, 5, 6)):
            _line(
                axis, [row[0] for row in chosen], [row[ours] for row in chosen], color=colour, marker="o", label=method
            )
            _line(axis, [row[0] for row in chosen], [row[theirs] for row in chosen], color=colour, marker="x", ls=":")
    padding.set(title="Padding, planned (circles) and published (crosses)", xlabel="pre-training sets", ylabel="%")
    time.set(title="Time an epoch, relative to alternating", xlabel="pre-training sets", ylabel="circles: runs")
    padding.legend()
    return figure


def _draw_table2(table: StudyTable) -> Any:
    """A panel a task, a bar a method: its average over the sets, and in black the published one."""
    tasks = list(dict.fromkeys(table.column("task")))
    figure, panels = new_figure(1, len(tasks), (4.6 * len(tasks), 4.2), squeeze=False)
    published = {name.removesuffix(", published"): name for name in table.columns if name.endswith(", published")}
    ours = table.columns[2 : table.columns.index("best")]
    for panel, task in zip(panels[0], tasks, strict=True):
        [row] = [row for row in table.rows if row[0] == task and row[1] == AVERAGE]
        values = dict(zip(table.columns, row, strict=True))
        theirs = [values.get(published.get(name.removesuffix(" (full-shot)"), "")) for name in ours]
        pairs = [(name, values[name], other) for name, other in zip(ours, theirs, strict=True)]
        shown = [pair for pair in pairs if pair[1] is not None or pair[2] is not None]
        for offset, column, colour, label in ((-0.2, 1, COLOURS[0], "ours"), (0.2, 2, "black", "published")):
            heights = [0.0 if pair[column] is None else pair[column] for pair in shown]
            panel.barh([place + offset for place in range(len(shown))], heights, 0.36, color=colour, label=label)
        panel.set_yticks(range(len(shown)), [_unlike(pair[0]) for pair in shown])
        panel.invert_yaxis()
        panel.set(title=str(task), xlabel="average NMSE, dB")
    panels[0, 0].legend(loc="lower left")
    return figure


def _unlike(method: str) -> str:
    """A method's name in the picture; BERT4MIMO's reconstruction is of another problem (the table's notes)."""
    return f"{method}\nof single slots" if method.startswith("BERT4MIMO") else method


def _draw_fig3(table: StudyTable) -> Any:
    """A panel a task, error against the number of sets, a colour a strategy; crosses are published."""
    tasks = list(dict.fromkeys(table.column("task")))
    figure, panels = new_figure(1, len(tasks), (4.0 * len(tasks), 3.8), squeeze=False)
    methods = list(dict.fromkeys(str(method) for method in table.column("batching")))
    for panel, task in zip(panels[0], tasks, strict=True):
        for colour, method in zip(COLOURS, methods, strict=False):
            rows = [row for row in table.rows if row[0] == task and row[2] == method]
            along = [row[1] for row in rows]
            _line(panel, along, [row[3] for row in rows], color=colour, marker="o", label=method)
            _line(panel, along, [row[4] for row in rows], color=colour, marker="x", ls=":")
        panel.set(title=str(task), xlabel="pre-training sets", ylabel="zero-shot NMSE, dB (crosses: published)")
    panels[0, 0].legend()
    return figure


def _draw_fig4(table: StudyTable) -> Any:
    """Error and relative time against the number of buckets, a colour a method; dashed: loss by sample."""
    figure, (error, time) = new_figure(1, 2, (10, 3.8))
    kinds = list(zip(table.column("method"), table.column("loss by"), strict=True))
    colours = dict(zip(dict.fromkeys(method for method, _ in kinds), COLOURS, strict=False))
    for axis, ours, theirs in (
        (error, "NMSE dB", "published NMSE dB"),
        (time, "relative time", "published relative time"),
    ):
        for method, weighting in dict.fromkeys(kinds):
            chosen = [row for row, kind in enumerate(kinds) if kind == (method, weighting)]
            style = {"ls": "-" if weighting == "token" else "--", "label": f"{method}, by {weighting}"}
            points = _at(table, "buckets", chosen), _at(table, ours, chosen)
            _line(axis, *points, color=colours[method], marker="o", **style)
        everything = range(len(table.rows))
        _line(axis, _at(table, "buckets", everything), _at(table, theirs, everything), **PUBLISHED)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set(xlabel="buckets")
    error.set(title="Zero-shot error", ylabel="NMSE, dB")
    time.set(title="Time an epoch, relative to one bucket")
    error.legend()
    return figure


def _draw_scales(table: StudyTable) -> Any:
    """A panel a task, two bars a kind of positions: longer sets, without and with the longest trained; ticks mark the
    error on the lengths that both runs were trained on."""
    tasks = list(dict.fromkeys(table.column("task")))
    positions = list(dict.fromkeys(table.column("positions")))
    figure, panels = new_figure(1, len(tasks), (3.4 * len(tasks), 4.2), squeeze=False, sharey=True)
    for panel, task in zip(panels[0], tasks, strict=True):
        for offset, training, colour in ((-0.2, "without", COLOURS[1]), (0.2, "with", COLOURS[0])):
            rows = [row for row in table.rows if row[0] == task and row[2] == training]
            along = [positions.index(row[1]) + offset for row in rows]
            longer = [math.nan if row[6] is None else row[6] for row in rows]
            panel.bar(along, longer, 0.36, color=colour, label=f"longer sets, {training} the longest trained")
            seen = [math.nan if row[5] is None else row[5] for row in rows]
            panel.plot(along, seen, "_k", ms=18, mew=2, label=None if training == "with" else "lengths trained")
        panel.set_xticks(range(len(positions)), positions)
        panel.set(title=str(task))
    panels[0, 0].set(ylabel="zero-shot NMSE, dB (lower is better)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_recipe(table: StudyTable) -> Any:
    """A panel a task, a bar a change: its error over that of the base with the same seed, as a mean over the seeds;
    a line from the least to the greatest where there are several."""
    shown = differences_by_task(table)
    changes = list(dict.fromkeys(change for by_change in shown.values() for change in by_change))
    size = 3.2 * len(shown) + 1.6, 1.6 + 0.26 * max(len(changes), 4)
    figure, panels = new_figure(1, len(shown), size, squeeze=False, sharey=True)
    for panel, (task, by_change) in zip(panels[0], shown.items(), strict=True):
        for place, change in enumerate(changes):
            if values := by_change.get(change):
                mean = sum(values) / len(values)
                panel.barh(place, mean, 0.7, color=COLOURS[0] if mean <= 0 else COLOURS[1])
                if len(values) > 1:
                    panel.plot([min(values), max(values)], [place, place], color="black", lw=1.2)
        panel.axvline(0.0, color="black", lw=0.8)
        panel.set(title=task, xlabel="NMSE over the base's, dB")
    panels[0, 0].set_yticks(range(len(changes)), changes)
    panels[0, 0].invert_yaxis()
    return figure


def _draw_fig1c(table: StudyTable) -> Any:
    figure, axis = new_figure(1, 1, (7, 2.8))
    rows = range(len(table.rows))
    for offset, name, colour in ((-0.2, "negative cosine %", COLOURS[0]), (0.2, "published %", "black")):
        shown = [0.0 if value is None else value for value in table.column(name)]
        bars = axis.barh([row + offset for row in rows], shown, 0.36, color=colour, label=name)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axis.set_yticks(rows, table.column("pairs of sets"))
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(xlabel="% of pairs", title=table.title)
    axis.legend(loc="lower right")
    return figure


def _at(table: StudyTable, column: str, rows: Sequence[int] | range) -> list[Cell]:
    values = table.column(column)
    return [values[row] for row in rows]


def _line(axis: Any, along: Sequence[Cell], values: Sequence[Cell], **style: Any) -> None:
    """A line over the points that have a value."""
    known = [(x, value) for x, value in zip(along, values, strict=True) if value is not None]
    if known:
        axis.plot(*zip(*known, strict=True), **style)
