"""The files of a comparison."""

from pathlib import Path

from channels.files import write_atomically
from orchestrator.downstream.results.figures import draw_cost, draw_shares
from orchestrator.downstream.results.scores import averaged
from orchestrator.downstream.results.tables import csv_of, markdown_of, page_of, tables_of
from orchestrator.downstream.run import Comparison
from orchestrator.report.figure import to_png, to_svg

MARKDOWN = "downstream.md"


def write_files(comparison: Comparison, folder: Path) -> list[Path]:
    """CSV, Markdown, a page, and both figures as PNG and SVG; their paths."""
    tasks, means = comparison.bench.tasks, averaged(comparison.scores)
    tables = tables_of(tasks, means, comparison.costs)
    shares, cost = draw_shares(tasks, means), draw_cost(tasks, means, comparison.costs)
    drawings = {"fig3": (shares, to_svg(shares)), "cost": (cost, to_svg(cost))}
    files: dict[str, str | bytes] = {
        "downstream.csv": csv_of(means),
        MARKDOWN: markdown_of(tables, comparison.notes),
        "downstream.html": page_of(tables, comparison.notes, [svg for _, svg in drawings.values()]),
    }
    for name, (figure, svg) in drawings.items():
        files |= {f"{name}.png": to_png(figure), f"{name}.svg": svg}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]
