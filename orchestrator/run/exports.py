"""Exported models of a run: those that wait in ``exports/`` to be scored, and the best one so far in ``model-best/``.

Rank 0 of the workers makes an export, the controller scores it and removes it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run.folder import RunDirectory

SCORE = "score.json"
"""File beside the weights of the best model: after which step it was exported, and its NMSE."""
PREFIX = "step-"


def export_folder(directory: RunDirectory, step: int) -> Path:
    """Folder of the weights after ``step`` optimizer steps; names sort by step."""
    return directory.exports / f"{PREFIX}{step:09d}"


def step_of(export: Path) -> int:
    """Step after which an export was made."""
    return int(export.name.removeprefix(PREFIX))


def waiting_exports(directory: RunDirectory) -> list[Path]:
    """Complete exports that are not scored yet, in the order of their steps."""
    return sorted(directory.exports.glob(f"{PREFIX}*"))


def unfinished(export: Path) -> Path:
    """Where an export lies until it is complete."""
    return export.with_name(f".{export.name}.tmp")


def publish(export: Path) -> None:
    """Give a complete export its name.

    An epoch that a resumed attempt repeats gives the same weights again. Where the first ones still wait, the
    controller may be reading them, so they stay and the second ones go.
    """
    if export.exists():
        shutil.rmtree(unfinished(export))
    else:
        unfinished(export).replace(export)


def remove_unfinished(directory: RunDirectory) -> None:
    """Remove what attempts left that ended while exporting."""
    for path in directory.exports.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(path)


def previous_best(directory: RunDirectory) -> Path:
    """Where the best model lies while a better one takes its place."""
    return directory.best.with_name(f".{directory.best.name}.old")


@dataclass(frozen=True, slots=True)
class BestModel:
    """What ``score.json`` says of the best model. nmse: linear. select: by what it was chosen (evaluation.select)."""

    step: int
    nmse: float
    select: str


def best_so_far(directory: RunDirectory) -> BestModel | None:
    """The best model, if there is one."""
    for folder in (directory.best, previous_best(directory)):
        try:
            score = json.loads((folder / SCORE).read_text())
        except FileNotFoundError:
            continue
        # A run of before there was a choice chose by the zero-shot sets.
        return BestModel(int(score["step"]), float(score["nmse"]), str(score.get("select", "zeroshot")))
    return None
