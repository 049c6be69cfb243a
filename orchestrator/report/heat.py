"""A table of errors whose cells are shaded: as data and as a figure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.report.figure import INK, figure_style, new_figure


@dataclass(frozen=True, slots=True)
class HeatTable:
    """Errors in dB. ours: how many of the first columns are runs; the others are not ours, or need no training."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    ours: int
    values: tuple[tuple[float | None, ...], ...]


def least_error(tables: Iterable[HeatTable]) -> float:
    """The smallest error of tables that stand together, dB: their darkest cell."""
    values = (value for table in tables for row in table.values for value in row if value is not None)
    return min(values, default=0.0)


def draw_heat(table: HeatTable, limit: float) -> Any:
    """A figure whose cells are shaded from 0 (white) to ``limit`` dB (dark); None is left empty."""
    rows, columns = table.rows, table.columns
    with figure_style(**{"axes.grid": False}):
        figure, axis = new_figure(1, 1, (2.2 + 1.15 * len(columns), 1.2 + 0.3 * len(rows)))
        shades = [[np.nan if value is None else darkness(value, limit) for value in row] for row in table.values]
        axis.imshow(shades, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
        for y, row in enumerate(table.values):
            for x, value in enumerate(row):
                if value is not None:
                    ink = "white" if darkness(value, limit) > 0.7 else INK
                    axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        axis.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
        axis.set_yticks(range(len(rows)), rows)
        axis.spines[:].set_visible(False)
        axis.set_title(f"{table.title}: NMSE in dB")
    return figure


def darkness(decibels: float, limit: float) -> float:
    """0 for an error as large as the signal (0 dB) or larger, 1 for the least that is shown (``limit`` dB)."""
    return float(np.clip(decibels / limit, 0.0, 1.0)) if limit < 0 else 0.0
