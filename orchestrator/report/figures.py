"""Figures of a report, drawn from run records; every function returns a matplotlib figure.

Runs have a colour and a line style each (Okabe and Ito's palette, which colour-blind readers can tell apart).
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.report.record import RunRecord, Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
INK, PALE = "#333333", "#D9D9D9"
BUDGET = {
    "compute": "#0072B2",
    "data wait": "#E69F00",
    "checkpoint": "#CC79A7",
    "evaluation": "#009E73",
}
POINTS = 400
SMOOTHING = 0.03
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "wavetrain",
}


def draw_all(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The figures that these runs have data for, by name."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {"plan": draw_plans(records)}
        begun = [record for record in records if len(record.steps.step)]
        if begun:
            looks = {record.name: look for record, look in zip(records, run_looks(len(records)), strict=True)}
            figures["curves"] = draw_curves(begun, looks)
            figures["padding"] = draw_efficiency(begun, looks)
            figures["time"] = draw_budgets(begun)
    return figures


def to_svg(figure: Any) -> str:
    """The ``<svg>`` element, to be put into a page; text stays text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def to_png(figure: Any) -> bytes:
    """PNG at 150 dots an inch."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def run_looks(count: int) -> list[dict[str, str]]:
    """Colour and line style of each of ``count`` runs."""
    return [
        {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)]} for number in range(count)
    ]


def draw_curves(records: Sequence[RunRecord], looks: Mapping[str, Mapping[str, str]]) -> Any:
    """Loss and learning rate against steps, samples and training time."""
    figure, axes = new_figure(2, 3, (11, 5.4), sharex="col", sharey="row")
    for record in records:
        steps, look = record.steps, looks[record.name]
        for column, along in enumerate((steps.step, steps.samples / 1e3, steps.wall_s / 60)):
            faint = {**look, "linestyle": "-"}
            axes[0, column].plot(*thinned(along, steps.loss), lw=0.6, alpha=0.3, **faint)
            axes[0, column].plot(*thinned(along, smoothed(steps.loss)), lw=1.8, label=record.name, **look)
            axes[1, column].plot(*thinned(along, steps.lr), lw=1.8, **look)
    axes[0, 0].set(ylabel="training loss", title="against optimizer steps")
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
    places = np.arange(len(records))
    for offset, values, colour, label in (
        (-0.2, [record.plan["padding"] for record in records], PALE, "planned"),
        (0.2, [record.padding or 0.0 for record in records], COLOURS[0], "measured"),
    ):
        drawn = bars.barh(places + offset, [100 * value for value in values], 0.38, color=colour, label=label)
        bars.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    bars.set(title="Padding", xlabel="% of the computed tokens", ylim=(len(records) - 0.4, -0.6))
    bars.set_yticks(places, [record.name for record in records])
    bars.grid(visible=False, axis="y")
    bars.margins(x=0.15)
    bars.legend(loc="lower left", bbox_to_anchor=(0.35, 1.0), ncols=2, borderaxespad=0.2)
    for record in records:
        line = thinned(record.steps.step, smoothed(record.steps.tokens_per_s))
        speed.plot(*line, lw=1.8, label=record.name, **looks[record.name])
    speed.set(title="Throughput", xlabel="steps", ylabel="valid tokens/s", ylim=(0, None))
    return figure


def draw_budgets(records: Sequence[RunRecord]) -> Any:
    """Where the time of each run went, as stacked bars in minutes."""
    figure, axis = new_figure(1, 1, (11, 1.4 + 0.45 * len(records)))
    places = np.arange(len(records))
    start = np.zeros(len(records))
    for part, colour in BUDGET.items():
        seconds = [getattr(record.budget, part.replace(" ", "_")) or 0.0 for record in records]
        axis.barh(places, np.asarray(seconds) / 60, 0.55, left=start, color=colour, label=part, edgecolor="white")
        start += np.asarray(seconds) / 60
    axis.set(xlabel="minutes", ylim=(len(records) - 0.4, -0.6))
    axis.set_yticks(places, [record.name for record in records])
    axis.grid(visible=False, axis="y")
    legend_above(figure, axis, len(BUDGET))
    return figure


def draw_heat(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], title: str, limit: float
) -> Any:
    """A table whose cells are shaded from 0 (white) to ``limit`` dB (dark); None is left empty."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, axis = new_figure(1, 1, (2.2 + 1.15 * len(columns), 1.2 + 0.3 * len(rows)))
        shades = [[np.nan if value is None else darkness(value, limit) for value in row] for row in values]
        axis.imshow(shades, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value is not None:
                    ink = "white" if darkness(value, limit) > 0.7 else INK
                    axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        axis.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
        axis.set_yticks(range(len(rows)), rows)
        axis.spines[:].set_visible(False)
        axis.set_title(title)
    return figure


def darkness(decibels: float, limit: float) -> float:
    """0 for an error as large as the signal (0 dB) or larger, 1 for the least that is shown (``limit`` dB)."""
    return float(np.clip(decibels / limit, 0.0, 1.0)) if limit < 0 else 0.0


def smoothed(values: Series) -> Series:
    """Centred running mean over a few per cent of the series; the ends average what there is."""
    width = max(int(SMOOTHING * len(values)), 1)
    kernel = np.ones(2 * width + 1)
    total, weight = (np.convolve(part, kernel)[width : width + len(values)] for part in (values, np.ones_like(values)))
    mean: Series = total / weight
    return mean


def thinned(along: Series, values: Series) -> tuple[Series, Series]:
    """At most POINTS points: means of equal runs of neighbours."""
    if len(values) <= POINTS:
        return along, values
    parts = np.array_split(np.arange(len(values)), POINTS)
    return np.asarray([along[part].mean() for part in parts]), np.asarray([values[part].mean() for part in parts])


def new_figure(rows: int, columns: int, size: tuple[float, float], **subplots: Any) -> tuple[Any, Any]:
    """A figure without a window, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **subplots)


def legend_above(figure: Any, axis: Any, entries: int) -> None:
    """One legend for the whole figure, above it."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=min(entries, 6))


def _draw_lengths(axis: Any, record: RunRecord) -> None:
    counts: dict[int, int] = {}
    for bucket in record.plan["buckets"]:
        for length, samples in bucket.get("lengths", ()):
            counts[length] = counts.get(length, 0) + samples
    lengths = sorted(counts)
    axis.set(title=f"{record.name}: {plan_name(record)}", xlabel="length of a sample, tokens", ylabel="samples")
    if not lengths:
        axis.text(0.5, 0.5, "this plan does not tell lengths", transform=axis.transAxes, ha="center", color=INK)
        axis.set(xticks=(), yticks=())
        return
    axis.bar(range(len(lengths)), [counts[length] for length in lengths], 0.7, color=COLOURS[0])
    if record.plan["strategy"] == "bucket":
        for boundary in sorted({bucket["longest"] for bucket in record.plan["buckets"]})[:-1]:
            axis.axvline(lengths.index(boundary) + 0.5, color="#D55E00", ls="--", lw=1.5)
    stride = -(-len(lengths) // 12)
    axis.set_xticks(range(0, len(lengths), stride), [str(length) for length in lengths[::stride]])
    axis.grid(visible=False, axis="x")


def plan_name(record: RunRecord) -> str:
    """Strategy, number of buckets and method in a few words."""
    plan = record.plan
    if plan["strategy"] != "bucket":
        return str(plan["strategy"]).replace("_", " ")
    count = len(plan["buckets"])
    return f"{count} bucket{'s' if count > 1 else ''}, {plan['method'].replace('_', ' ')}"
