"""Figures without a window and without pyplot: matplotlib's backend and settings stay those of the process.

Colours are Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE = "#333333", "#D9D9D9"
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


@contextmanager
def figure_style(**changes: Any) -> Iterator[None]:
    """Inside it figures are drawn in the style of reports; matplotlib's own settings are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, **changes}):
        yield


def new_figure(rows: int, columns: int, size: tuple[float, float], **subplots: Any) -> tuple[Any, Any]:
    """A figure of some inches and its axes, as :meth:`matplotlib.figure.Figure.subplots` returns them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **subplots)


def to_svg(figure: Any) -> str:
    """The ``<svg>`` element, to be put into a page; text stays text."""
    text = io.StringIO()
    with figure_style():
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def to_png(figure: Any, dots_per_inch: int = 150) -> bytes:
    """The figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dots_per_inch)
    return image.getvalue()


def legend_above(figure: Any, axis: Any, entries: int) -> None:
    """One legend for the whole figure, above it."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=min(entries, 6))
