"""Published figures that ours are read beside: facts of the papers, each file with its source."""

from importlib import resources
from typing import Any

from channels.yaml_files import parse_shipped


def published(paper: str) -> dict[str, Any]:
    """The figures of a paper by table, e.g. ``published("hetercsi")["table2"]``; units are in the file."""
    text = resources.files(__name__).joinpath(f"{paper}.yaml").read_text(encoding="utf-8")
    figures: dict[str, Any] = parse_shipped(text)
    return figures
