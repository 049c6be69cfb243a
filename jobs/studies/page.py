"""The page of a study: its figure, its table, and what the table must be read with."""

from jobs.studies.tables import StudyTable
from orchestrator.report.markup import document, html_table, text
from orchestrator.report.published import published


def study_page(table: StudyTable, figure: str) -> str:
    """A page that needs no network. figure: an SVG element."""
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in table.notes)
    source = text(published("hetercsi")["source"])
    parts = [f"<h1>{text(table.title)}</h1>", f"<figure>{figure}</figure>", html_table(table.columns, table.cells()),
             notes, f"<footer>Published figures: {source}.</footer>"]  # fmt: skip
    return document(table.title, parts)
