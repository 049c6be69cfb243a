"""The page of a report: one HTML file that needs no network, with CSV and PNG files beside it."""

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from channels.files import write_atomically
from orchestrator.report.figures import darkness, draw_all, draw_heat, to_png, to_svg
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord
from orchestrator.report.summary import duration, summary
from orchestrator.report.tables import (
    AVERAGE,
    HeatTable,
    least_error,
    on_published_sets,
    published_averages,
    run_rows,
    score_rows,
    step_rows,
    to_csv,
    zeroshot_tables,
)

CAPTIONS = {
    "plan": "Samples of an epoch by length. Dashed: bucket boundaries, across which samples never share a batch.",
    "curves": "Thin: logged steps, in long runs means of neighbours. Thick: running mean. Steps that were repeated "
    "after a fault count once.",
    "padding": "Padding as planned, and as measured over the last whole epoch; valid tokens a second, running mean.",
    "time": "Compute includes the communication between ranks. Start-up of the worker group is not counted.",
}
HEAT = (8, 81, 156)
"""Colour of the least error, red, green, blue; white is an error as large as the signal."""
DARK = 0.68
"""Share of that colour from which white text reads better than black."""


def write_report(records: Sequence[RunRecord], path: Path) -> list[Path]:
    """Write the page and, beside it, ``<stem>.runs.csv`` and so on and a PNG a figure; all paths, the page first."""
    figures = draw_all(records)
    tables = zeroshot_tables(records)
    files: dict[str, str | bytes] = {"runs.csv": to_csv(run_rows(records))}
    for name, rows in (("steps.csv", step_rows(records)), ("zeroshot.csv", score_rows(records))):
        if rows:
            files[name] = to_csv(rows)
    files |= {f"{name}.png": to_png(figure) for name, figure in figures.items()}
    for table in tables:
        title = f"{table.title}: NMSE in dB"
        heat = draw_heat(table.rows, table.columns, table.values, title, least_error(tables))
        files[f"zeroshot-{table.title}.png"] = to_png(heat)
    beside = [path.with_name(f"{path.stem}.{name}") for name in files]
    for file, content in zip(beside, files.values(), strict=True):
        write_atomically(file, content)
    write_atomically(path, render(records, {name: to_svg(figure) for name, figure in figures.items()}, tables))
    return [path, *beside]


def render(records: Sequence[RunRecord], figures: Mapping[str, str], tables: Sequence[HeatTable]) -> str:
    """The page as text. figures: SVG elements by name."""
    names = ", ".join(record.name for record in records)
    sections = [
        f"<h1>{_text(names)}</h1>",
        f'<div class="summary">{"".join(f"<p>{_text(line)}</p>" for line in summary(records))}</div>',
        _section("Runs", _runs_table(records), _descriptions(records)),
        _section("Zero-shot errors", *_zeroshot(records, tables)),
        _section("Training", _figure(figures, "curves")),
        _section("Plan", _figure(figures, "plan")),
        _section("Padding and throughput", _figure(figures, "padding")),
        _section("Where the time went", _figure(figures, "time"), _repeated(records)),
        _section("Attempts, checkpoints and faults", *(_history(record) for record in records)),
        f"<footer>Made by <code>wavetrain report</code>. Published figures: {_text(published('hetercsi')['source'])}."
        "</footer>",
    ]
    return page(names, sections)


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML document with the style of reports."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>\n{style}</style></head>\n<body>\n{''.join(sections)}</body></html>\n"
    )


def render_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], figure: str
) -> str:
    """A page with one table, its notes and its figure (an SVG element)."""
    told = "".join(f'<p class="note">{_text(note)}</p>' for note in notes)
    source = _text(published("hetercsi")["source"])
    parts = [f"<h1>{_text(title)}</h1>", f"<figure>{figure}</figure>", html_table(columns, rows), told,
             f"<footer>Published figures: {source}.</footer>"]  # fmt: skip
    return page(title, parts)


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, *parts: str) -> str:
    content = "".join(parts)
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n" if content else ""


def _figure(figures: Mapping[str, str], name: str) -> str:
    if name not in figures:
        return '<p class="note">No step has been logged.</p>'
    return f"<figure>{figures[name]}<figcaption>{_text(CAPTIONS[name])}</figcaption></figure>"


def html_table(head: Iterable[str], rows: Iterable[Sequence[object]], text_columns: Sequence[int] = ()) -> str:
    """A plain table; text columns are aligned left."""
    kinds = dict.fromkeys(text_columns, ' class="text"')
    titles = "".join(f"<th{kinds.get(place, '')}>{_text(title)}</th>" for place, title in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{kinds.get(place, '')}>{_text(cell)}</td>" for place, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _runs_table(records: Sequence[RunRecord]) -> str:
    head = ("run", "status", "model", "plan", "workers", "steps", "loss", "padding", "tokens/s", "min/epoch",
            "zero-shot")  # fmt: skip
    rows = []
    for row in run_rows(records):
        workers = "-" if row["workers"] is None else f"{row['workers']} x {row['device']}"
        rows.append((
            row["run"], row["status"], row["model"], row["plan"], workers, f"{row['steps']:,} / {row['total_steps']:,}",
            _number(row["loss"], ".4f"), _number(row["padding_measured"], ".1%"), _number(row["tokens_per_s"], ",.0f"),
            _number(row["minutes_per_epoch"], ".2f"), _number(row["zeroshot_nmse_db"], ".2f", " dB"),
        ))  # fmt: skip
    return html_table(head, rows, text_columns=(0, 1, 2, 3))


def _number(value: Any, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _descriptions(records: Sequence[RunRecord]) -> str:
    lines = [f"<li>{_text(record.name)}: {_text(record.job.description)}</li>" for record in records
             if record.job.description]  # fmt: skip
    return f'<ul class="note">{"".join(lines)}</ul>' if lines else ""


def _zeroshot(records: Sequence[RunRecord], tables: Sequence[HeatTable]) -> list[str]:
    if not tables:
        return ['<p class="note">No run has been scored yet: the table is made when training has finished.</p>']
    told = (
        "Normalised mean squared error in dB on sets that were not trained on, against the noisy target; lower is "
        "better, 0 dB is as bad as predicting nothing. Darker cells have less error. Repeat last and linear need no "
        "training."
    )
    least = least_error(tables)
    heats = (_heat(table, least) for table in tables)
    parts = [f'<p class="note">{told}</p>', '<div class="heats">', *heats, "</div>"]
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


def _heat(table: HeatTable, least: float) -> str:
    marks = ["" if place < table.ours or not table.ours else ' class="other"' for place in range(len(table.columns))]
    head = "".join(f"<th{mark}>{_text(name)}</th>" for mark, name in zip(marks, table.columns, strict=True))
    lines = []
    for name, row in zip(table.rows, table.values, strict=True):
        cells = "".join(_heat_cell(value, least, mark) for value, mark in zip(row, marks, strict=True))
        lines.append(f"<tr{' class=average' if name == AVERAGE else ''}><th>{_text(name)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><h3>{_text(table.title)}</h3><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat_cell(value: float | None, least: float, mark: str) -> str:
    if value is None:
        return f"<td{mark}></td>"
    share = 0.85 * darkness(value, least)
    colour = ",".join(str(round(255 + share * (part - 255))) for part in HEAT)
    ink = "#fff" if share > DARK else "#222"
    return f'<td{mark} style="background:rgb({colour});color:{ink}">{value:.2f}</td>'


def _repeated(records: Sequence[RunRecord]) -> str:
    lines = [
        f"{record.name} did {duration(record.budget.repeated)} of work twice, after faults."
        for record in records
        if record.budget.repeated > 0
    ]
    return "".join(f'<p class="note">{_text(line)}</p>' for line in lines)


def _history(record: RunRecord) -> str:
    rows = [
        (number, f"{life.first_step} to {life.last_step}", f"{life.workers} x {life.device}", duration(life.seconds),
         life.outcome or ("goes on" if record.status == "RUNNING" and number == len(record.attempts) else "broke off"))
        for number, life in enumerate(record.attempts, start=1)
    ]  # fmt: skip
    parts = [f"<h3>{_text(record.name)}: {_text(record.status)}</h3>"]
    if record.reason:
        parts.append(f"<p>{_text(record.reason)}</p>")
    if rows:
        parts.append(html_table(("attempt", "steps", "workers", "lasted", "end"), rows, text_columns=(4,)))
    else:
        parts.append('<p class="note">No attempt reached training.</p>')
    if record.checkpoints:
        stall = duration(record.budget.checkpoint / len(record.checkpoints))
        parts.append(
            f'<p class="note">Checkpoints: {len(record.checkpoints)}, the last after step {record.checkpoints[-1]:,}; '
            f"training stood still for {stall} at each on average.</p>"
        )
    if record.remarks:
        remarks = [(remark.kind, remark.step, remark.text) for remark in record.remarks]
        parts.append(html_table(("", "after step", ""), remarks, text_columns=(0, 2)))
    return "".join(parts)
