"""The page of a report: one HTML file that needs no network, with CSV and PNG files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.files import write_atomically
from orchestrator.report.figure import to_png, to_svg
from orchestrator.report.heat import HeatTable, draw_heat, least_error
from orchestrator.report.markup import document, html_table, section, text
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord
from orchestrator.report.rows import run_rows, score_rows, step_rows, to_csv
from orchestrator.report.run_figures import draw_all
from orchestrator.report.summary import duration, summary
from orchestrator.report.zeroshot import fullshot_tables, zeroshot_tables
from orchestrator.report.zeroshot_section import direction_section, fullshot_section, zeroshot_section

CAPTIONS = {
    "plan": "Samples of an epoch by length. Dashed: bucket boundaries, across which samples never share a batch.",
    "curves": "Thin: logged steps, in long runs means of neighbours. Thick: running mean. Steps that were repeated "
    "after a fault count once. Dots: loss on validation samples of the pre-training sets.",
    "padding": "Padding as planned, and as measured over the last whole epoch; valid tokens a second, running mean.",
    "time": "All wall time of a run, over all attempts, by what it went to. Beside its name: goodput, its share of "
    "compute and communication.",
}


def write_report(records: Sequence[RunRecord], path: Path) -> list[Path]:
    """Write the page and, beside it, ``<stem>.runs.csv`` and so on and a PNG a figure; all paths, the page first."""
    figures = draw_all(records)
    tables, known = zeroshot_tables(records), fullshot_tables(records)
    files: dict[str, str | bytes] = {"runs.csv": to_csv(run_rows(records))}
    full = [record for record in records if record.is_fullshot]
    zero = [record for record in records if not record.is_fullshot]
    scores = (("zeroshot.csv", score_rows(zero)), ("fullshot.csv", score_rows(full)))
    for name, rows in (("steps.csv", step_rows(records)), *scores):
        if rows:
            files[name] = to_csv(rows)
    files |= {f"{name}.png": to_png(figure) for name, figure in figures.items()}
    for table in tables:
        files[f"zeroshot-{table.title}.png"] = to_png(draw_heat(table, least_error(tables)))
    for table in known:
        files[f"fullshot-{table.title}.png"] = to_png(draw_heat(table, least_error(known)))
    beside = [path.with_name(f"{path.stem}.{name}") for name in files]
    for file, content in zip(beside, files.values(), strict=True):
        write_atomically(file, content)
    write_atomically(path, render(records, {name: to_svg(figure) for name, figure in figures.items()}, tables, known))
    return [path, *beside]


def render(
    records: Sequence[RunRecord],
    figures: Mapping[str, str],
    tables: Sequence[HeatTable],
    known: Sequence[HeatTable] = (),
) -> str:
    """The page as text. figures: SVG elements by name. tables: zero-shot errors. known: full-shot errors."""
    names = ", ".join(record.name for record in records)
    sections = [
        f"<h1>{text(names)}</h1>",
        f'<div class="summary">{"".join(f"<p>{text(line)}</p>" for line in summary(records))}</div>',
        section("Runs", _runs_table(records), _descriptions(records)),
        section("Zero-shot errors", *zeroshot_section(records, tables)),
        *([section("Full-shot errors", *fullshot_section(known))] if known else []),
        section("Directions", *direction_section(records)),
        section("Training", _figure(figures, "curves")),
        section("Plan", _figure(figures, "plan")),
        section("Padding and throughput", _figure(figures, "padding")),
        section("Where the time went", _figure(figures, "time"), _repeated(records)),
        section("Attempts, checkpoints and faults", *(_history(record) for record in records)),
        f"<footer>Made by <code>wavetrain report</code>. Published figures: {text(published('hetercsi')['source'])}."
        "</footer>",
    ]
    return document(names, sections)


def _figure(figures: Mapping[str, str], name: str) -> str:
    if name not in figures:
        return '<p class="note">No step has been logged.</p>'
    return f"<figure>{figures[name]}<figcaption>{text(CAPTIONS[name])}</figcaption></figure>"


def _runs_table(records: Sequence[RunRecord]) -> str:
    head = ("run", "status", "model", "plan", "workers", "steps", "loss", "padding", "tokens/s", "min/epoch",
            "zero-shot", *(["full-shot"] if any(record.is_fullshot for record in records) else []))  # fmt: skip
    rows = []
    for row in run_rows(records):
        workers = "-" if row["workers"] is None else f"{row['workers']} x {row['device']}"
        rows.append((
            row["run"], row["status"], row["model"], row["plan"], workers, f"{row['steps']:,} / {row['total_steps']:,}",
            _number(row["loss"], ".4f"), _number(row["padding_measured"], ".1%"), _number(row["tokens_per_s"], ",.0f"),
            _number(row["minutes_per_epoch"], ".2f"), _number(row["zeroshot_nmse_db"], ".2f", " dB"),
            *([_number(row["fullshot_nmse_db"], ".2f", " dB")] if head[-1] == "full-shot" else []),
        ))  # fmt: skip
    return html_table(head, rows, text_columns=(0, 1, 2, 3))


def _number(value: Any, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _descriptions(records: Sequence[RunRecord]) -> str:
    lines = [f"<li>{text(record.name)}: {text(line)}</li>" for record in records
             for line in (record.job.description, *record.caveats) if line]  # fmt: skip
    return f'<ul class="note">{"".join(lines)}</ul>' if lines else ""


def _repeated(records: Sequence[RunRecord]) -> str:
    lines = [
        f"{record.name} did {duration(record.ledger.seconds['repeated'])} of work twice, after faults."
        for record in records
        if record.ledger.seconds["repeated"] > 0
    ]
    return "".join(f'<p class="note">{text(line)}</p>' for line in lines)


def _history(record: RunRecord) -> str:
    rows = [
        (number, f"{attempt.first_step} to {attempt.last_step}", f"{attempt.workers} x {attempt.device}",
         duration(attempt.seconds), attempt.outcome
         or ("goes on" if record.status == "RUNNING" and number == len(record.attempts) else "broke off"))
        for number, attempt in enumerate(record.attempts, start=1)
    ]  # fmt: skip
    parts = [f"<h3>{text(record.name)}: {text(record.status)}</h3>"]
    if record.reason:
        parts.append(f"<p>{text(record.reason)}</p>")
    if rows:
        parts.append(html_table(("attempt", "steps", "workers", "lasted", "end"), rows, text_columns=(4,)))
    else:
        parts.append('<p class="note">No attempt reached training.</p>')
    if record.checkpoints:
        stall = duration(record.stall_s)
        parts.append(
            f'<p class="note">Checkpoints: {len(record.checkpoints)}, the last after step {record.checkpoints[-1]:,}; '
            f"training stood still for {stall} at each on average.</p>"
        )
    if record.remarks:
        remarks = [(remark.kind, remark.step, remark.text) for remark in record.remarks]
        parts.append(html_table(("", "after step", ""), remarks, text_columns=(0, 2)))
    return "".join(parts)
