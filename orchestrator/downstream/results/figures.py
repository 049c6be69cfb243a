"""Fig. 3 of the WiMamba paper with our scores, and quality against cost."""

from collections.abc import Sequence
from typing import Any

from orchestrator.downstream.results.scores import Cost, Mean
from orchestrator.downstream.task import LOWER_IS_BETTER, Task
from orchestrator.report.figure import COLOURS, figure_style, legend_above, new_figure

MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_shares(tasks: Sequence[Task], means: Sequence[Mean]) -> Any:
    """The first metric of each task against the share of the labels: a column a task, a row a patch side, a curve an
    encoder; bars are the deviation over seeds."""
    patches = sorted({mean.patch for mean in means})
    encoders = list(dict.fromkeys(mean.encoder for mean in means))
    with figure_style():
        size = (3.1 * len(tasks) + 0.4, 2.5 * len(patches) + 0.6)
        figure, axes = new_figure(len(patches), len(tasks), size, squeeze=False, sharex=True)
        for row, patch in enumerate(patches):
            for column, task in enumerate(tasks):
                axis = axes[row][column]
                for number, encoder in enumerate(encoders):
                    _curve(axis, _points(means, task, encoder, patch), COLOURS[number % len(COLOURS)], encoder)
                title = task.name if len(patches) == 1 else f"{task.name}, patches {patch}x{patch}"
                axis.set(title=title, ylabel=_direction(task))
                if row == len(patches) - 1:
                    axis.set(xlabel="labels, %")
        _legend(figure, axes, encoders)
    return figure


def draw_cost(tasks: Sequence[Task], means: Sequence[Mean], costs: Sequence[Cost]) -> Any:
    """The first metric of each task with all labels against the time of encoding, a panel a task; colours are encoders,
    marks patch sides, and a mark grows with the memory that encoding holds."""
    encoders = list(dict.fromkeys(mean.encoder for mean in means))
    patches = sorted({cost.patch for cost in costs})
    most = max(cost.memory_mb for cost in costs)
    share = max(mean.share for mean in means)
    with figure_style():
        figure, axes = new_figure(1, len(tasks), (3.1 * len(tasks) + 0.4, 3.1), squeeze=False)
        for axis, task in zip(axes[0], tasks, strict=True):
            for cost in costs:
                found = [mean for mean in _points(means, task, cost.encoder, cost.patch) if mean.share == share]
                for mean in found:
                    colour = COLOURS[encoders.index(cost.encoder) % len(COLOURS)]
                    marker = MARKERS[patches.index(cost.patch) % len(MARKERS)]
                    label = f"{cost.encoder} {cost.patch}x{cost.patch}"
                    size = 25 + 150 * cost.memory_mb / most
                    axis.scatter(cost.ms, mean.value, s=size, marker=marker, color=colour, alpha=0.75, label=label)
            axis.set_xscale("log")
            axis.set(title=task.name, xlabel=f"ms for {costs[0].batch} channels", ylabel=_direction(task))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def _points(means: Sequence[Mean], task: Task, encoder: str, patch: int) -> list[Mean]:
    chosen = (task.name, task.metrics[0], encoder, patch)
    found = [mean for mean in means if (mean.task, mean.metric, mean.encoder, mean.patch) == chosen]
    return sorted(found, key=lambda mean: mean.share)


def _curve(axis: Any, points: Sequence[Mean], colour: str, encoder: str) -> None:
    if not points:
        return
    label = f"{encoder}, last {points[0].unfreeze} trained" if points[0].unfreeze else encoder
    spread = [point.deviation or 0.0 for point in points]
    axis.errorbar([point.share for point in points], [point.value for point in points], yerr=spread, color=colour,
                  marker="o", markersize=4, capsize=2, linewidth=1.4, elinewidth=0.8, label=label)  # fmt: skip


def _legend(figure: Any, axes: Any, encoders: Sequence[str]) -> None:
    """Of the panel with the most curves: not every encoder has every patch side."""
    panels = [axis for row in axes for axis in row]
    legend_above(figure, max(panels, key=lambda axis: len(axis.get_legend_handles_labels()[1])), len(encoders))


def _direction(task: Task) -> str:
    metric = task.metrics[0]
    return f"{metric} ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)"
