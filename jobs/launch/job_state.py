"""The state of a run, and of a job that a launcher works on, in one set of words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["PENDING", "RUNNING", "FINISHED", "FAILED", "KILLED", "UNKNOWN"]
ENDED: tuple[State, ...] = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True, slots=True)
class JobState:
    """What a launcher says of a submitted job. nodes: as the launcher names them."""

    state: State
    reason: str | None = None
    nodes: str | None = None


Query = Callable[[Mapping[str, Any]], JobState | None]
"""Asks the launcher of a submission for its job; None where no launcher knows of it."""
