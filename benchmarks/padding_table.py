"""Padding of every method on the published sets, beside Table III of the HeterCSI paper (arXiv:2601.18200).

    python benchmarks/padding_table.py [--picture docs/pictures/padding.png]

Prints padding % for the first N = 8 .. 40 sets and B = 1 .. 16 buckets, 9,000 samples a set, 128 a batch.
"""

import argparse
from pathlib import Path

from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.presets import load_preset
from orchestrator.report.padding_curves import padding_by_buckets
from orchestrator.report.plan_figures import draw_padding_by_buckets
from samplers.catalogue import Catalogue, catalogue_of_specs
from samplers.plan import make_plan
from samplers.segmentation import Constraints

SETS = (8, 16, 24, 32, 40)
BUCKETS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
TABULATED = (1, 2, 4, 8, 16)
DRAWN = (8, 24, 40)
SAMPLES = 9000
BATCH = 128
MIXED = "optimal, 2 sets or more"

# Table III, padding %: Global (one bucket), Proposed with 4 and with 8 buckets, for N = 8, 16, 24, 32, 40.
PUBLISHED = {
    1: (36.46, 32.81, 28.82, 44.06, 58.91),
    4: (4.69, 5.15, 14.61, 19.05, 25.20),
    8: (0.0, 2.27, 7.69, 8.66, 13.58),
}


def main() -> None:
    """Compute, print, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures" / "padding.png")
    arguments = parser.parse_args()
    curves = {sets: all_curves(published_sets(sets)) for sets in SETS}
    rows = [row for sets in SETS for row in table_rows(sets, curves[sets])]
    print_table(rows)
    worst = max(abs(row["equal"] - row["published"]) for row in rows if row["published"] is not None)
    print(f"largest difference between method equal and the published figures: {worst:.2f} points")
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, arguments.picture)
    record("padding_table", {"samples": SAMPLES, "batch": BATCH, "largest_difference_points": round(worst, 3)}, rows)


def published_sets(sets: int) -> Catalogue:
    """The first pre-training sets of the paper."""
    return catalogue_of_specs(load_preset("hetercsi").pretrain[:sets], SAMPLES)


def all_curves(catalogue: Catalogue) -> dict[str, list[float]]:
    """Padding ratio of every method for all of BUCKETS; the last has two sets at least in every bucket."""
    curves = padding_by_buckets(catalogue, BUCKETS, BATCH)
    most = len({source.length for source in catalogue})
    mixed = Constraints(min_sources=2)
    curves[MIXED] = [
        make_plan(catalogue, method="optimal", buckets=min(count, most), batch=BATCH, constraints=mixed).padding
        for count in BUCKETS
    ]
    return curves


def table_rows(sets: int, curves: dict[str, list[float]]) -> list[dict]:
    """Padding % of each method, and the published one, for TABULATED."""
    rows = []
    for buckets in TABULATED:
        published = PUBLISHED[buckets][SETS.index(sets)] if buckets in PUBLISHED else None
        percent = {method: round(100 * ratios[BUCKETS.index(buckets)], 2) for method, ratios in curves.items()}
        rows.append({"sets": sets, "buckets": buckets, "published": published, **percent})
    return rows


def print_table(rows: list[dict]) -> None:
    """One line a number of sets and buckets."""
    table = Table(box=None, title="padding, % of computed tokens", title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        cells = [str(row["sets"]), str(row["buckets"])]
        cells += ["" if value is None else f"{value:.2f}" for value in list(row.values())[2:]]
        table.add_row(*cells, end_section=row["buckets"] == TABULATED[-1])
    Console(width=120).print(table)


def draw(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    """The picture of the README."""
    titles = {sets: f"first {sets} sets" for sets in DRAWN}
    published = {
        titles[sets]: {buckets: values[SETS.index(sets)] / 100 for buckets, values in PUBLISHED.items()}
        for sets in DRAWN
    }
    draw_padding_by_buckets({titles[sets]: curves[sets] for sets in DRAWN}, BUCKETS, path, published)


if __name__ == "__main__":
    main()
