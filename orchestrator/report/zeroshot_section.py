"""The zero-shot errors of a report as HTML: shaded tables, and what they must be read with."""

from collections.abc import Sequence

from orchestrator.evaluation.score import AVERAGE, CLEAN, PREDICTOR_NAMES, direction_averages
from orchestrator.evaluation.shot import marked
from orchestrator.report.heat import HeatTable, darkness, least_error
from orchestrator.report.markup import html_table, text
from orchestrator.report.record import RunRecord
from orchestrator.report.zeroshot import on_published_sets, published_averages

HEAT = (8, 81, 156)
"""Colour of the least error, red, green, blue; white is an error as large as the signal."""
DARK = 0.68
"""Share of that colour from which white text reads better than black."""

DIRECTIONS = (
    "Antenna vectors that were predicted whole, against the clean channel, mean over the sets: squared generalised "
    "cosine similarity (1 is the right direction), and spectral efficiency of precoding along them as a share of that "
    "along the true ones."
)


def zeroshot_section(records: Sequence[RunRecord], tables: Sequence[HeatTable]) -> list[str]:
    """Notes and tables, in order."""
    if not tables:
        return ['<p class="note">No run has been scored yet: the table is made when training has finished.</p>']
    how_to_read = (
        "Normalised mean squared error in dB on sets that were not trained on, against the noisy target; lower is "
        "better, 0 dB is as bad as predicting nothing. Darker cells have less error. Repeat last, linear, "
        "PAD, Prony and LMMSE need no training."
    )
    least = least_error(tables)
    heats = (_heat(table, least) for table in tables)
    parts = [f'<p class="note">{how_to_read}</p>', '<div class="heats">', *heats, "</div>"]
    context = published_averages(table.title for table in tables)
    if context and on_published_sets(records):
        note = "The published columns are Table II of the HeterCSI paper, measured on QuaDRiGa channels of these sets."
        parts.append(f'<p class="note">{note}</p>')
    elif context:
        note = (
            "For orientation only: Table II of the HeterCSI paper, averages over its own sets D1 to D12, whose "
            "channels and model sizes are other ones than those above."
        )
        parts.append(f'<div class="heats">{_heat(context, least_error([context]))}</div><p class="note">{note}</p>')
    return parts


def fullshot_section(tables: Sequence[HeatTable]) -> list[str]:
    """Notes and tables of runs that were trained on the set that they are scored on."""
    how_to_read = (
        "The same error of runs that were trained on the training samples of one held-out set alone and are scored on "
        "its test samples. They know the set, so these errors are no part of any zero-shot average."
    )
    heats = (_heat(table, least_error(tables)) for table in tables)
    return [f'<p class="note">{how_to_read}</p>', '<div class="heats">', *heats, "</div>"]


def _heat(table: HeatTable, least: float) -> str:
    columns = range(len(table.columns))
    marks = ["" if column < table.ours or not table.ours else ' class="other"' for column in columns]
    head = "".join(f"<th{mark}>{text(name)}</th>" for mark, name in zip(marks, table.columns, strict=True))
    lines = []
    for name, row in zip(table.rows, table.values, strict=True):
        cells = "".join(_heat_cell(value, least, mark) for value, mark in zip(row, marks, strict=True))
        lines.append(f"<tr{' class=average' if name == AVERAGE else ''}><th>{text(name)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><h3>{text(table.title)}</h3><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat_cell(value: float | None, least: float, mark: str) -> str:
    if value is None:
        return f"<td{mark}></td>"
    share = 0.85 * darkness(value, least)
    colour = ",".join(str(round(255 + share * (part - 255))) for part in HEAT)
    ink = "#fff" if share > DARK else "#222"
    return f'<td{mark} style="background:rgb({colour});color:{ink}">{value:.2f}</td>'


def direction_section(records: Sequence[RunRecord]) -> list[str]:
    """A note and a table, rows by task and run; nothing where no run has such scores."""
    rows = []
    for task in dict.fromkeys(score.task for record in records for score in record.scores):
        for record in records:
            rows += [
                (task, marked(record.name, record.job.data.shot), *cells) for cells in _direction_rows(record, task)
            ]
    if not rows:
        return []
    head = ("task", "run", "prediction", "similarity", "share of efficiency")
    return [f'<p class="note">{text(DIRECTIONS)}</p>', html_table(head, rows, text_columns=(0, 1, 2))]


def _direction_rows(record: RunRecord, task: str) -> list[tuple[str, str, str]]:
    """Prediction, similarity and share, of the model first."""
    means = direction_averages(record.scores)
    found = [(label, means.get((task, predictor, CLEAN))) for predictor, label in PREDICTOR_NAMES.items()]
    return [(label, f"{pair[0]:.3f}", f"{100 * pair[1]:.1f} %") for label, pair in found if pair is not None]
