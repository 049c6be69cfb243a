"""Figures of a report, drawn from run records; every function returns a matplotlib figure.

Runs have a colour and a line style each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.report.figure import COLOURS, INK, PALE, figure_style, legend_above, new_figure
from orchestrator.report.record import RunRecord
from orchestrator.report.series import smoothed, thinned

STYLES = ("-", "--", "-.", ":")
PART_COLOURS = {
    "queued": "#D9D9D9",
    "start": "#9C9C9C",
    "compute": "#0072B2",
    "communication": "#56B4E9",
    "data_wait": "#E69F00",
    "checkpoint": "#CC79A7",
    "evaluation": "#009E73",
    "repeated": "#F0E442",
    "recovery": "#D55E00",
    "stopped": "#4D4D4D",
}


def draw_all(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The figures that these runs have data for, by name."""
    with figure_style():
        figures = {"plan": draw_plans(records)}
        begun = [record for record in records if len(record.steps.step)]
        if begun:
            looks = {record.name: look for record, look in zip(records, _looks(len(records)), strict=True)}
            figures["curves"] = draw_curves(begun, looks)
            figures["padding"] = draw_efficiency(begun, looks)
            figures["time"] = draw_budgets(begun)
    return figures


def _looks(count: int) -> list[dict[str, str]]:
    """Colour and line style of each of ``count`` runs."""
    return [
        {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)]} for number in range(count)
    ]


def draw_curves(records: Sequence[RunRecord], looks: Mapping[str, Mapping[str, str]]) -> Any:
    """Loss, learning rate and validation loss (dots) against steps, samples and training time."""
    figure, axes = new_figure(2, 3, (11, 5.4), sharex="col", sharey="row")
    for record in records:
        steps, look = record.steps, looks[record.name]
        for column, along in enumerate((steps.step, steps.samples / 1e3, steps.wall_s / 60)):
            faint = {**look, "linestyle": "-"}
            axes[0, column].plot(*thinned(along, steps.loss), lw=0.6, alpha=0.3, **faint)
            axes[0, column].plot(*thinned(along, smoothed(steps.loss)), lw=1.8, label=record.name, **look)
            axes[1, column].plot(*thinned(along, steps.lr), lw=1.8, **look)
            if record.validation is not None:
                there = np.interp(record.validation.step, steps.step, along)
                axes[0, column].plot(there, record.validation.loss, marker="o", ms=4, lw=1.0, **look)
    axes[0, 0].set(ylabel="loss", title="against optimizer steps")
    axes[0, 1].set(title="against samples seen")
    axes[0, 2].set(title="against training time")
    axes[1, 0].set(ylabel="learning rate", xlabel="steps")
    axes[1, 1].set(xlabel="thousand samples")
    axes[1, 2].set(xlabel="minutes, pauses between attempts left out")
    axes[1, 0].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    legend_above(figure, axes[0, 0], len(records))
    return figure


def draw_plans(records: Sequence[RunRecord]) -> Any:
    """Samples by length, with the longest sample of every bucket but the last as a boundary; a panel a run."""
    columns = min(len(records), 3)
    rows = -(-len(records) // columns)
    figure, axes = new_figure(rows, columns, (11, 2.9 * rows), squeeze=False)
    for axis, record in zip(axes.flat, records, strict=False):
        _draw_lengths(axis, record)
    for axis in list(axes.flat)[len(records) :]:
        axis.set_visible(False)
    return figure


def draw_efficiency(records: Sequence[RunRecord], looks: Mapping[str, Mapping[str, str]]) -> Any:
    """Planned and measured padding of each run, and valid tokens a second over the steps."""
    figure, (bars, speed) = new_figure(1, 2, (11, max(2.6, 1.2 + 0.5 * len(records))), width_ratios=(4, 5))
    positions = np.arange(len(records))
    for offset, values, colour, label in (
        (-0.2, [record.plan["padding"] for record in records], PALE, "planned"),
        (0.2, [record.padding or 0.0 for record in records], COLOURS[0], "measured"),
    ):
        drawn = bars.barh(positions + offset, [100 * value for value in values], 0.38, color=colour, label=label)
        bars.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    bars.set(title="Padding", xlabel="% of the computed tokens", ylim=(len(records) - 0.4, -0.6))
    bars.set_yticks(positions, [record.name for record in records])
    bars.grid(visible=False, axis="y")
    bars.margins(x=0.15)
    bars.legend(loc="lower left", bbox_to_anchor=(0.35, 1.0), ncols=2, borderaxespad=0.2)
    for record in records:
        line = thinned(record.steps.step, smoothed(record.steps.tokens_per_s))
        speed.plot(*line, lw=1.8, label=record.name, **looks[record.name])
    speed.set(title="Throughput", xlabel="steps", ylabel="valid tokens/s", ylim=(0, None))
    return figure


def draw_budgets(records: Sequence[RunRecord]) -> Any:
    """Where the wall time of each run went, as stacked bars in minutes; parts that no run has are left out."""
    figure, axis = new_figure(1, 1, (11, 1.4 + 0.45 * len(records)))
    positions = np.arange(len(records))
    start = np.zeros(len(records))
    drawn = [part for part in PART_COLOURS if any(record.ledger.seconds[part] > 0 for record in records)]
    for part in drawn:
        seconds = [record.ledger.seconds[part] for record in records]
        look = {"color": PART_COLOURS[part], "label": part.replace("_", " "), "edgecolor": "white"}
        axis.barh(positions, np.asarray(seconds) / 60, 0.55, left=start, **look)
        start += np.asarray(seconds) / 60
    axis.set(xlabel="minutes", ylim=(len(records) - 0.4, -0.6))
    axis.set_yticks(positions, [f"{record.name} ({100 * record.ledger.share:.0f} %)" for record in records])
    axis.grid(visible=False, axis="y")
    legend_above(figure, axis, min(len(drawn), 5))
    return figure


def _draw_lengths(axis: Any, record: RunRecord) -> None:
    counts: dict[int, int] = {}
    for bucket in record.plan["buckets"]:
        for length, samples in bucket.get("lengths", ()):
            counts[length] = counts.get(length, 0) + samples
    lengths = sorted(counts)
    axis.set(title=f"{record.name}: {record.plan_name}", xlabel="length of a sample, tokens", ylabel="samples")
    if not lengths:
        axis.text(0.5, 0.5, "the plan does not list its lengths", transform=axis.transAxes, ha="center", color=INK)
        axis.set(xticks=(), yticks=())
        return
    axis.bar(range(len(lengths)), [counts[length] for length in lengths], 0.7, color=COLOURS[0])
    if record.plan["strategy"] == "bucket":
        for boundary in sorted({bucket["longest"] for bucket in record.plan["buckets"]})[:-1]:
            axis.axvline(lengths.index(boundary) + 0.5, color="#D55E00", ls="--", lw=1.5)
    stride = -(-len(lengths) // 12)
    axis.set_xticks(range(0, len(lengths), stride), [str(length) for length in lengths[::stride]])
    axis.grid(visible=False, axis="x")
