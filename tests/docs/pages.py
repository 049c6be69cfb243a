"""Reading the documentation: pages, fenced blocks, the commands in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")])
_FENCE = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`(wavetrain [^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. note: the comment on the line before it, which says where it is run if not by the page's test."""

    page: str
    language: str
    note: str
    body: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = _FENCE.finditer(page.read_text())
    return [Block(page.name, match["language"], match["note"] or "", match["body"]) for match in found]


def commands(page: Path) -> list[str]:
    """Every ``wavetrain ...`` of a page, in blocks and in running text, comments taken off."""
    lines = [line for block in blocks(page) for line in block.body.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r";|&&", line.partition(" #")[0])]
    spans = _INLINE.findall(_FENCE.sub("", page.read_text()))
    return [part.removeprefix(".venv/bin/") for part in (*parts, *spans) if _is_command(part)]


def _is_command(text: str) -> bool:
    return text.removeprefix(".venv/bin/").startswith("wavetrain ")


def links(page: Path) -> list[str]:
    """Targets of the relative links and pictures of a page, without their fragments."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target.partition("#")[0] for target in targets if not re.match(r"https?://|#|mailto:", target)]
