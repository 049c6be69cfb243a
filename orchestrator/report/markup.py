"""HTML that needs no network: a document in the style of reports, its sections and plain tables."""

import html
from collections.abc import Iterable, Sequence
from importlib import resources


def document(title: str, sections: Iterable[str]) -> str:
    """A whole HTML document with the style of reports."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>\n{style}</style></head>\n<body>\n{''.join(sections)}</body></html>\n"
    )


def text(value: object) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def section(title: str, *parts: str) -> str:
    """A part of the page under a title; nothing where it has no content."""
    content = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{content}</section>\n" if content else ""


def html_table(head: Iterable[str], rows: Iterable[Sequence[object]], text_columns: Sequence[int] = ()) -> str:
    """A plain table; text columns are aligned left."""
    kinds = dict.fromkeys(text_columns, ' class="text"')
    titles = "".join(f"<th{kinds.get(column, '')}>{text(title)}</th>" for column, title in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{kinds.get(column, '')}>{text(cell)}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
