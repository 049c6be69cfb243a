"""One row of what ``wavetrain doctor`` finds."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table."""

    check: str
    verdict: Verdict
    found: str
