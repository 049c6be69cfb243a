"""Whether a model was trained on the set that it is scored on: scores of the two kinds never meet in an average."""

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.spec.data import Shot

TITLES: Mapping[Shot, str] = MappingProxyType({"zero": "zero-shot", "full": "full-shot"})
"""In words."""
STEMS: Mapping[Shot, str] = MappingProxyType({"zero": "zeroshot", "full": "fullshot"})
"""Names of files, without their endings."""
ROOTS: Mapping[Shot, str] = MappingProxyType({"zero": "eval/", "full": "fullshot/"})
"""How the names of metrics begin."""


def marked(name: str, shot: Shot) -> str:
    """A model's name in a table where both kinds stand."""
    return f"{name} ({TITLES[shot]})" if shot == "full" else name


def named(metrics: Mapping[str, float], shot: Shot) -> dict[str, float]:
    """Metrics of ``orchestrator.evaluation.table.to_metrics`` under the names of a shot."""
    return {ROOTS[shot] + name.removeprefix(ROOTS["zero"]): value for name, value in metrics.items()}
